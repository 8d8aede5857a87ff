"""Grammars that bind what is generated: JSON Schema, regular expressions, choices, Lark grammars.

Built on llguidance (extra `constraints`), which is imported when the first `Grammars` is made.
"""

from llm_jax.inference.constraints.grammars import GrammarConstraint, Grammars

__all__ = ["GrammarConstraint", "Grammars"]
