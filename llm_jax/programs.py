"""Compiled programs, stored on disk from one process to the next.

What is stored is the executable itself: a later process neither traces nor compiles it, and needs the shapes of its
arguments alone. Loading one takes some 40 ms. (JAX's own compilation cache keeps what XLA makes of a lowered function,
which every process has to trace and lower anew.)

They lie where JAX's own cache does, if the caller has chosen a directory for it, and else in the user's cache folder. A
file is named by a digest of everything that its program follows from, and not of where it lies: a folder that is moved,
or built into an image, still serves. What cannot be read or written is compiled, without a complaint.
"""

import contextlib
import hashlib
import inspect
import os
import pickle
import platform
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.stages import Compiled

MAX_BYTES = 1 << 30  # of all stored programs; beyond that, those that were not used for longest go
# XLA's older code generator for CPUs: programs that are as fast, made sooner (jaxlib 0.10.2; 0.11.0 has it too).
CPU_OPTIONS: dict[str, str | bool] = {"xla_cpu_use_fusion_emitters": False}
_SUFFIX = ".program"
_DIGEST_BYTES = 16

prepared: dict[str, "Future[Compiled]"] = {}  # the programs of this process, by the digest of what they follow from

# One at a time: XLA crashes where a thread serialises a program while another compiles (jaxlib 0.10.2).
_compiling = threading.Lock()


class Program:
    """A function that `jax.jit` compiles, and whose programs are stored. Made by `program`.

    It can be called like the function itself. `prepare` gives one of its programs.
    """

    def __init__(self, function: Callable[..., Any], static: Sequence[str], donate: Sequence[str]) -> None:
        self._options: dict[str, Any] = {"static_argnames": tuple(static), "donate_argnames": tuple(donate)}
        self._jitted = jax.jit(function, **self._options)
        self._static = frozenset(static)
        self._parameters = list(inspect.signature(function).parameters)
        self.__doc__, self.__name__, self.__wrapped__ = function.__doc__, function.__name__, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(*args, **kwargs)

    def prepare(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The program for arguments like these: loaded if it is stored, else compiled and stored. Thread-safe.

        Args:
            args, kwargs: the function's; a `jax.ShapeDtypeStruct` does for an array.

        Returns:
            A function of the arguments that are not static, given as they are here: by position, or by name.
        """
        config: Any = jax.config
        if config.jax_disable_jit:
            return self._plain(args, kwargs)
        key, path = self._find(args, kwargs)
        mine: Future[Compiled] = Future()
        future = prepared.setdefault(key, mine)
        if future is mine:  # other threads that ask for it wait for this one
            try:
                mine.set_result(_load(path) or self._compile(path, args, kwargs))
            except BaseException as error:
                mine.set_exception(error)
                prepared.pop(key, None)
        return future.result()

    def is_kept(self, *args: Any, **kwargs: Any) -> bool:
        """Whether `prepare` finds the program."""
        key, path = self._find(args, kwargs)
        return key in prepared or (path is not None and path.exists())

    def _plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
        """The function itself, of the arguments that are not static: where JAX must not compile (`disable_jit`)."""
        named = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        static = {name: value for name, value in named.items() if name in self._static}
        others = [name for name in self._parameters if name not in self._static]

        def run(*args: Any, **kwargs: Any) -> Any:
            return self.__wrapped__(**static, **dict(zip(others, args, strict=False)), **kwargs)

        return run

    def _compile(self, path: Path | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Compiled:
        function = self.__wrapped__
        if path is None:
            lowered = self._jitted.lower(*args, **kwargs)
            with _compiling:
                return lowered.compile(_compiler_options())

        @wraps(function)
        def renamed(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        # Under a name that JAX's own cache cannot have: what JAX loads from there lacks code when it is serialised.
        renamed.__name__ = f"{self.__name__}_{secrets.token_hex(4)}"
        lowered = jax.jit(renamed, **self._options).lower(*args, **kwargs)
        with _compiling:
            compiled = lowered.compile(_compiler_options())
            _store(compiled, path)
        return compiled

    def _find(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str, Path | None]:
        """A digest of what the program follows from, and its file; None for the file where it is not stored."""
        named = [*zip(self._parameters, args, strict=False), *sorted(kwargs.items())]
        static = [(name, value) for name, value in named if name in self._static]
        leaves, tree = jax.tree.flatten([(name, value) for name, value in named if name not in self._static])
        elsewhere = [str(sharding) for sharding in map(_sharding, leaves) if sharding is not None]
        function = self.__wrapped__
        source = function.__module__, function.__qualname__, static, str(tree), [*map(_describe, leaves)], elsewhere
        key = _digest(repr((source, _environment())).encode()).hex()
        directory = None if elsewhere else folder()
        return key, None if directory is None else directory / f"{self.__name__}-{key}{_SUFFIX}"


def program(*, static: Sequence[str] = (), donate: Sequence[str] = ()) -> Callable[[Callable[..., Any]], Program]:
    """Decorator: a function that `jax.jit` compiles, with these static and donated arguments.

    >>> @program(static=["factor"])
    ... def scaled(x, *, factor):
    ...     return factor * x
    >>> triple = scaled.prepare(jax.ShapeDtypeStruct((2,), "int32"), factor=3)
    >>> triple(np.array([1, 2], "int32")).tolist()
    [3, 6]
    """
    return lambda function: Program(function, static, donate)


def folder() -> Path | None:
    """Where programs are stored; None where the caller has switched JAX's cache off, or has it on another machine."""
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return None
    if chosen := config.jax_compilation_cache_dir:
        return None if "://" in chosen else Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm" / "programs"


def _load(path: Path | None) -> Compiled | None:
    """The program in a file; None where there is none, or it is damaged."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if _digest(content) != digest:
        return None
    from jax.experimental.serialize_executable import deserialize_and_load

    try:
        executable, arguments, results = pickle.loads(content)
        loaded = deserialize_and_load(executable, arguments, results, execution_devices=jax.devices()[:1])
    except Exception:  # the library promises nothing about what it raises
        return None
    with contextlib.suppress(OSError):  # a folder of another user, or of an image
        os.utime(path)  # used now
    return loaded


def _store(compiled: Compiled, path: Path) -> None:
    """Writes a program, and deletes old ones in exchange."""
    from jax.experimental.serialize_executable import serialize

    try:
        content = pickle.dumps(serialize(compiled))
    except Exception:  # not every program can be serialised
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(_digest(content) + content)
        os.replace(file.name, path)  # whoever reads it meanwhile has all of it, or nothing
        _make_room(path.parent)
    except OSError:  # the folder cannot be written, or the disk is full
        pass


def _make_room(directory: Path) -> None:
    """Deletes the programs that were not used for longest, until the rest fits into MAX_BYTES."""
    files = [(path.stat(), path) for path in directory.glob(f"*{_SUFFIX}")]
    size = sum(status.st_size for status, _ in files)
    for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
        if size <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        size -= status.st_size


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _describe(leaf: Any) -> tuple[Any, ...]:
    """What of an argument a program depends on."""
    dtype = getattr(leaf, "dtype", type(leaf))
    return np.shape(leaf), str(dtype), getattr(leaf, "weak_type", not hasattr(leaf, "dtype"))


def _sharding(leaf: Any) -> Any:
    """Where an argument lies; None where it is the first device."""
    sharding = getattr(leaf, "sharding", None)
    return None if sharding is None or sharding.device_set == set(jax.devices()[:1]) else sharding


def _environment() -> tuple[Any, ...]:
    """What every program depends on, beside its own function and arguments."""
    config: Any = jax.config
    settings = [(name, config.values[name]) for name in _settings()]
    return _machine(), _compiler_options(), os.environ.get("XLA_FLAGS"), settings


def _compiler_options() -> dict[str, str | bool]:
    """What XLA is told beside its flags: nothing that it may not know, since it would refuse to compile."""
    return CPU_OPTIONS if jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12) else {}


@lru_cache(maxsize=1)
def _settings() -> list[str]:
    """The names of JAX's settings, without those that no program depends on."""
    config: Any = jax.config
    irrelevant = ("cache", "jax_platforms", "log", "traceback")
    return [name for name in config.values if not any(word in name for word in irrelevant)]


@lru_cache(maxsize=1)
def _machine() -> tuple[Any, ...]:
    """Versions, sources, and the device."""
    device = jax.devices()[0]
    versions = [version(name) for name in ("jax", "jaxlib", "flax")]
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return versions, _sources(), device.device_kind, device.client.platform_version, threads, _processor()


def _sources() -> str:
    """A digest of this package: a program may follow from any of its files."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for path in _source_files(Path(__file__).parent):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _source_files(package: Path) -> Iterator[Path]:
    return (path for path in sorted(package.rglob("*")) if path.suffix in (".py", ".cc", ".h"))


def _processor() -> str:
    """The instructions that programs may use."""
    try:
        with open("/proc/cpuinfo") as lines:
            features = [line for line in lines if line.startswith(("flags", "Features"))]
        return features[0]
    except (OSError, IndexError):  # not Linux
        return platform.processor() + platform.machine()
