"""How good a model is."""

from llm_jax.evaluation.perplexity import TextScore, evaluate_text

__all__ = ["TextScore", "evaluate_text"]
