"""Quality of a model: perplexity on a text."""

from llm_jax.evaluation.perplexity import TextScore, evaluate_text

__all__ = ["TextScore", "evaluate_text"]
