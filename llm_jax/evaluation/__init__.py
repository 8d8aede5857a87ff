"""Quality of a model on a text: its perplexity, and what matters most in its weights."""

from llm_jax.evaluation.importance import input_importance
from llm_jax.evaluation.perplexity import TextScore, evaluate_text

__all__ = ["TextScore", "evaluate_text", "input_importance"]
