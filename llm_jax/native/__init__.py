"""The native library as a file: compiled, found, loaded, and asked what this processor can do.

It imports neither jax nor numpy, so that a build with nothing installed and `--version` can use it. What calls the
library is `llm_jax.kernels.cpu`.
"""

from llm_jax.native.level import Level
from llm_jax.native.library import LEVELS, find, machine
from llm_jax.native.processor import Status, features, load, status

__all__ = ["LEVELS", "Level", "Status", "features", "find", "load", "machine", "status"]
