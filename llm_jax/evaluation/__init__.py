"""Quality of a model on a text: its perplexity, and what matters most in its weights."""

from llm_jax.evaluation.importance import importance
from llm_jax.evaluation.perplexity import TextScore, evaluate_text

__all__ = ["TextScore", "evaluate_text", "importance"]
