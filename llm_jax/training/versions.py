"""The versions that a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

from llm_jax import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers")


def versions() -> dict[str, str]:
    """Of this project, of Python, and of the packages that decide what a run computes."""
    found = {"llm": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
