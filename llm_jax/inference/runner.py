"""The device side of the engine: what lies on the device, and the programs that are sent to it.

Sending does not wait: each method returns arrays that the device is still working on.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llm_jax.inference.batch import Batch
from llm_jax.inference.buckets import Buckets
from llm_jax.inference.memory import check_room
from llm_jax.inference.prefix_cache import BLOCK, PrefixCache
from llm_jax.inference.programs import EngineState, StepResult, admit, choose, decode, init_state, move_row, prefill
from llm_jax.inference.request import Request, SamplingParams
from llm_jax.inference.sampling import row_settings
from llm_jax.kernels import Kind
from llm_jax.model import KVCache, Model, cache_sharding, init_cache

Call = partial[Any]  # of a jitted function


class Runner:
    """Parameters, rows and kept prompt blocks of one engine.

    Args:
        model: its parameters as the programs take them, and where they should lie.
        dtype: what to compute in. cache_dtype: what to keep keys and values in.
        prefix_blocks: how many blocks of prompts to keep; 0 keeps none.
        mesh: the devices that it all is spread over, where these are several.
    """

    def __init__(
        self,
        model: Model,
        buckets: Buckets,
        *,
        dtype: jnp.dtype,
        cache_dtype: Kind,
        prefix_blocks: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        self._model = model
        self._buckets = buckets
        self._dtype = dtype
        self._cache_dtype = cache_dtype
        self._prefix_blocks = prefix_blocks
        self._mesh = mesh
        self._everything: dict[int, Array] = {}  # rows -> a mask that allows all tokens

        def caches() -> list[KVCache]:
            rows = init_cache(model.config, buckets.max_batch, buckets.max_len, cache_dtype, chunk=buckets.chunks[-1])
            return [rows, init_cache(model.config, prefix_blocks, BLOCK, cache_dtype)]

        check_room(
            jax.eval_shape(caches),
            f"The KV cache of {buckets.max_batch} rows of {buckets.max_len} tokens, with {prefix_blocks * BLOCK} kept,",
            "lower max_batch, the context (max_len), or what is kept of prompts",
        )
        self._state = self._empty_state()
        self.prefixes = PrefixCache(model.config, prefix_blocks, cache_dtype, mesh)

    def reset(self) -> None:
        """Empty rows and no kept blocks, as at the start."""
        for array in jax.tree.leaves(self._state):  # there may not be room for a second one
            array.delete()
        self._state = self._empty_state()
        self.prefixes = PrefixCache(self._model.config, self._prefix_blocks, self._cache_dtype, self._mesh)

    def seat(self, row: int, request: Request, seed: int, block_keys: Sequence[bytes]) -> int:
        """Gives a row to a request; says how many tokens of its prompt were kept from earlier ones."""
        self._state, held = self.prefixes.load(self._state, row, block_keys)
        settings = row_settings(request.sampling, request.prompt_ids, seed, self._model.config.vocab_size)
        self._state = admit(self._state, np.int32(row), np.int32(len(request.prompt_ids)), settings)
        return held

    def move(self, source: int, target: int) -> None:
        self._state = move_row(self._state, np.int32(source), np.int32(target), mesh=self._mesh)

    def keep_block(self, row: int, index: int, key: bytes) -> None:
        """Keeps one block of a row's prompt for later requests."""
        self.prefixes.save(self._state, row, index, key)

    def prefill(self, row: int, tokens: Sequence[int], start: int, chunk: int) -> Array:
        """Sends a piece of a prompt, padded to `chunk`. Gives its last hidden state [1, 1, D]."""
        self._state, hidden_11D = self._prefill(
            row, tokens, start, chunk, self._buckets.program_context(start + chunk)
        )()
        return hidden_11D

    def first_token(self, row: int, hidden_11D: Array, allowed_V: np.ndarray | None) -> StepResult:
        """Sends the choice of the token behind a prompt."""
        batch = Batch.of(1, [0], masks=None if allowed_V is None else {0: allowed_V})
        self._state, result = self._choose(hidden_11D, row, batch)()
        return result

    def decode(self, batch: Batch, context: int) -> StepResult:
        """Sends a step of all active rows, and the choice of their tokens."""
        self._state, hidden_TBD = self._decode(batch, context)()
        self._state, result = self._choose(hidden_TBD, 0, batch)()
        return result

    def compile(self, draft: int, draft_rows: int) -> None:
        """Compiles every program, several at a time; a step of `draft_rows` rows with `draft` guesses too."""
        calls = list(self._all_calls(draft, draft_rows))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda call: call.func.lower(*call.args, **call.keywords).compile(), calls))
        self._state = self.prefixes.warmup(self._state)

    def _all_calls(self, draft: int, draft_rows: int) -> Iterator[Call]:
        buckets = self._buckets
        decodes = [(B, 0, context) for B, context in buckets.all_decodes()]
        if draft:
            decodes += {(draft_rows, draft, context) for _, _, context in decodes}
        for chunk, context in {(n, buckets.program_context(context)) for n, context in buckets.all_prefills()}:
            yield self._prefill(0, (), 0, chunk, context)
        for B, K, context in decodes:
            yield self._decode(Batch.of(B, draft=K), context)
        for B, K in {(1, 0), *((B, K) for B, K, _ in decodes)}:
            hidden = jnp.zeros((1 + K, B, self._model.config.hidden_size), self._dtype)
            yield self._choose(hidden, 0, Batch.of(B, draft=K))
        zero = np.int32(0)
        yield partial(move_row, self._state, zero, zero, mesh=self._mesh)
        nothing = row_settings(SamplingParams(temperature=0.0), (), 0, self._model.config.vocab_size)
        yield partial(admit, self._state, zero, zero, nothing)

    def _empty_state(self) -> EngineState:
        config, mesh = self._model.config, self._mesh
        buckets = self._buckets
        state = init_state(config, buckets.max_batch, buckets.max_len, self._cache_dtype, buckets.chunks[-1])
        if mesh is None:
            return state
        everywhere: Any = NamedSharding(mesh, PartitionSpec())
        cut: Any = cache_sharding(config, mesh)
        cache = KVCache(keys=cut, values=cut, length_B=everywhere)
        return jax.device_put(state, EngineState(cache=cache, last_B=everywhere, rows=everywhere))

    def _prefill(self, row: int, tokens: Sequence[int], start: int, chunk: int, context: int) -> Call:
        padded = np.zeros(chunk, np.int32)
        padded[: len(tokens)] = tokens
        return partial(
            prefill, self._model.config, self._model.params, self._state, np.int32(row), padded, np.int32(start),
            np.int32(len(tokens)), dtype=self._dtype, context=context, mesh=self._mesh,
        )  # fmt: skip

    def _decode(self, batch: Batch, context: int) -> Call:
        return partial(
            decode, self._model.config, self._model.params, self._state,
            batch.active_B, batch.drafts_BK, batch.draft_count_B,
            dtype=self._dtype, context=context, mesh=self._mesh,
        )  # fmt: skip

    def _choose(self, hidden_TBD: Array, first: int, batch: Batch) -> Call:
        is_masked = batch.allowed_BV is not None
        return partial(
            choose, self._model.config, self._model.params, self._state, hidden_TBD, np.int32(first),
            batch.active_B, batch.drafts_BK, batch.draft_count_B,
            batch.allowed_BV if is_masked else self._all_tokens(batch.rows), np.bool_(is_masked),
        )  # fmt: skip

    def _all_tokens(self, rows: int) -> Array:
        """A mask that allows everything, made once."""
        if rows not in self._everything:
            self._everything[rows] = jnp.ones((rows, self._model.config.vocab_size), bool)
        return self._everything[rows]
