"""llama.cpp through its batch interface: all sequences in one `llama_decode`."""

import ctypes
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmarks.engines.interface import THREADS, Decoding, Unavailable, prompts
from benchmarks.weights import Weights
from llm_jax.model import ModelDtype

BATCH = 512  # tokens of one call
LONG_CONTEXT = 256  # tokens from which its flash attention is slower on a CPU than its plain attention


class LlamaCpp:
    name: ClassVar[str] = "llama.cpp"
    note = ""

    def __init__(self, weights: Weights, dtype: ModelDtype, *, max_batch: int, max_len: int) -> None:
        try:
            import llama_cpp
        except ImportError:
            raise Unavailable("not installed; pip install 'llm[llama-cpp]'") from None
        self._api = llama_cpp
        _silence()
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        path = weights.gguf(dtype)
        self.note = f"built with {_instructions()}"
        if b"AMX_INT8 = 1" in llama_cpp.llama_print_system_info() and not _runs_a_prompt(path):
            settings.use_extra_bufts = False
            self.note += f"; it crashes in its AMX kernels with {dtype}, so they are off"
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        self._cache_in_float32 = dtype == "float32"
        self._max_batch, self._max_len = max_batch, max_len
        self._contexts = {flash: self._new_context(flash) for flash in (True, False)}
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._vocab_size = weights.config.vocab_size

    def prefill(self, tokens: int) -> float:
        [prompt] = prompts(1, tokens, self._vocab_size)
        self._begin(flash=True)
        start = time.perf_counter()
        self._prefill(prompt)
        self._argmax(1)
        return time.perf_counter() - start

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        given = prompts(batch, context, self._vocab_size)
        self._begin(flash=context < LONG_CONTEXT)
        self._prefill(given[0][:-1])
        for sequence in range(1, batch):
            self._api.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        last = self._step([prompt[-1] for prompt in given], context - 1)
        made = [[token] for token in last]
        start = time.perf_counter()
        for position in range(context, context + steps):
            last = self._step(last, position)
            for tokens, token in zip(made, last, strict=True):
                tokens.append(token)
        return Decoding(batch * steps / (time.perf_counter() - start), made)

    def _new_context(self, flash: bool) -> object:
        """A context with one KV cache per sequence (not a unified one); in float32 where the weights are."""
        api = self._api
        settings = api.llama_context_default_params()
        settings.n_ctx = self._max_batch * self._max_len
        settings.n_seq_max, settings.kv_unified = self._max_batch, False
        settings.n_batch = settings.n_ubatch = BATCH
        settings.n_threads = settings.n_threads_batch = THREADS
        settings.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if self._cache_in_float32:
            settings.type_k = settings.type_v = api.GGML_TYPE_F32
        return api.llama_init_from_model(self._model, settings)

    def _begin(self, *, flash: bool) -> None:
        self._context = self._contexts[flash]
        self._memory = self._api.llama_get_memory(self._context)
        self._api.llama_memory_clear(self._memory, True)

    def _prefill(self, prompt: Sequence[int]) -> None:
        for start in range(0, len(prompt), BATCH):
            chunk = prompt[start : start + BATCH]
            for i, token in enumerate(chunk):
                self._set(i, token, start + i, 0, start + i == len(prompt) - 1)
            self._run(len(chunk))

    def _step(self, tokens: Sequence[int], position: int) -> list[int]:
        for sequence, token in enumerate(tokens):
            self._set(sequence, token, position, sequence, True)
        self._run(len(tokens))
        return self._argmax(len(tokens))

    def _set(self, i: int, token: int, position: int, sequence: int, wants_logits: bool) -> None:
        batch = self._batch
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, wants_logits
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence

    def _run(self, tokens: int) -> None:
        self._batch.n_tokens = tokens
        status = self._api.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {tokens} tokens returned {status}")

    def _argmax(self, sequences: int) -> list[int]:
        logits = self._api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, (sequences, self._vocab_size)).argmax(-1).tolist()


def _runs_a_prompt(path: Path) -> bool:
    """Whether a short prompt runs in a subprocess without a crash: some compilers break the AMX kernels."""
    # g++ 12 takes `_tile_loadconfig` to read 8 bytes of its 64, and leaves the rest unwritten.
    code = f"import llama_cpp; llama_cpp.Llama({str(path)!r}, n_ctx=64, verbose=False).eval([1] * 33)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode >= 0


def _instructions() -> str:
    """The vector instructions that it was compiled for."""
    import llama_cpp

    flags = re.findall(r"(\w+) = 1", llama_cpp.llama_print_system_info().decode())
    return (
        ", ".join(flag for flag in flags if flag.startswith(("AVX", "FMA", "AMX", "NEON"))) or "no vector instructions"
    )


@cache
def _silence() -> object:
    """Drops what llama.cpp logs. Cached, because the callback has to outlive every call."""
    import llama_cpp

    callback = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p())
    return callback
