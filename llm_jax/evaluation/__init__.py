"""Quality of a model: its perplexity on texts, tasks, and what matters most in its weights."""

from llm_jax.evaluation.importance import input_importance
from llm_jax.evaluation.perplexity import TextScore, evaluate_text
from llm_jax.evaluation.tasks import evaluate_tasks

__all__ = ["TextScore", "evaluate_tasks", "evaluate_text", "input_importance"]
