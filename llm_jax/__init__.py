"""The core: a decoder language model in JAX and Flax. See docs/architecture.md for the map."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_jax.hub import from_pretrained, save_pretrained

__version__ = "0.1.0"
__all__ = ["__version__", "from_pretrained", "save_pretrained"]


def __getattr__(name: str) -> Any:
    """The two functions are imported when they are asked for: `--version` must not import jax."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llm_jax import hub

    return getattr(hub, name)
