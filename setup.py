"""The one step that pyproject.toml cannot describe: the native kernels are compiled where that can be done.

It needs a C++ compiler and the headers that come with jaxlib, so that a first install into an empty environment goes
without; `python -m llm_jax.kernels.cpu.build` does the same at any time.
"""

import os
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithKernels(build_py):
    """Copies the package, with the library beside its sources."""

    def run(self) -> None:
        # pip hides the environment's own packages, jaxlib among them, behind PYTHONPATH.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [sys.executable, "-m", "llm_jax.kernels.cpu.build"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        reason = (result.stderr.strip().splitlines() or ["unknown reason"])[-1]
        print("Native kernels: " + ("built." if result.returncode == 0 else reason))
        super().run()


setup(cmdclass={"build_py": BuildWithKernels})
