"""The core: a decoder language model in JAX and Flax. See docs/architecture.md for the map."""

__version__ = "0.1.0"
