"""The step that pyproject.toml cannot describe: the native kernels are compiled where that can be done.

It needs a C++ compiler (CXX, or g++ or clang++) and the headers of jaxlib, a build requirement. Where it cannot be
done, the package is installed without them, and says so when it runs; if CXX names a compiler, that is an error. The
library is loaded by ctypes, so that one wheel serves every Python. `--plat-name` of a wheel says for which architecture
CXX compiles.
"""

import os
import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # a build in isolation has the folder of the project nowhere

from llm_jax.native import LEVELS, find, machine  # noqa: E402
from llm_jax.native.build import BuildError, build, build_into, can_build  # noqa: E402


class BuildWithKernels(build_py):
    """Copies the package, with the library in it; an editable install has it among the sources."""

    def run(self) -> None:
        super().run()
        try:
            print(f"Native kernels: {build() if self.editable_mode else self._build_library()}")
        except BuildError as error:
            if os.environ.get("CXX"):  # who names a compiler wants a library
                raise
            print(f"Native kernels: {error}")

    def _build_library(self) -> Path:
        folder = Path(self.build_lib) / "llm_jax" / "native"
        for old in folder.glob("*.so"):  # from an earlier build in the same folder
            old.unlink()
        wheel = self.distribution.get_command_obj("bdist_wheel", create=False)
        platform = str(getattr(wheel, "plat_name", None) or "")
        architecture = next((name for name in LEVELS if platform.endswith(name)), machine())
        present = find() if architecture == machine() and "CXX" not in os.environ else None
        return build_into(folder, architecture) if present is None else Path(shutil.copy(present, folder))


class Wheel(bdist_wheel):
    """A wheel for any Python: with a library for one platform, without one for all."""

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


class WithLibrary(Distribution):
    """Tells setuptools whether the package holds compiled code."""

    def has_ext_modules(self) -> bool:
        return can_build() or find() is not None


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": Wheel}, distclass=WithLibrary)
