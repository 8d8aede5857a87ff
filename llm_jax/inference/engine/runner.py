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
from jax.sharding import Mesh

from llm_jax.inference.engine.batch import Asked, Feed
from llm_jax.inference.engine.buckets import Buckets
from llm_jax.inference.engine.memory import check_room
from llm_jax.inference.engine.prefix_cache import BLOCK, PrefixCache
from llm_jax.inference.engine.programs import StepResult, admit, advance, choose, empty_rows, move_row
from llm_jax.inference.engine.request import Request, SamplingParams
from llm_jax.inference.engine.sampling import RowSettings, row_settings
from llm_jax.inference.engine.shares import Run
from llm_jax.kernels import Level, WeightDtype
from llm_jax.model import KVCache, Model, allocate_cache, cache_devices, head_params
from llm_jax.parallel import replicated

Call = partial[Any]  # of a jitted function


class Runner:
    """Parameters, rows and kept prompt blocks of one engine.

    Args:
        model: its parameters as the programs take them, and where they should lie.
        dtype: what to compute in. cache_dtype: what keys and values are cached in.
        level: which kernels read and write the cache.
        prefix_blocks: how many blocks of prompts to keep; 0 keeps none.
        mesh: the devices that it all is spread over, where these are several.
    """

    def __init__(
        self,
        model: Model,
        buckets: Buckets,
        *,
        dtype: jnp.dtype,
        cache_dtype: WeightDtype,
        level: Level,
        prefix_blocks: int = 0,
        mesh: Mesh | None = None,
    ) -> None:
        self._model = model
        self._head = head_params(model.config, model.params)
        self._buckets = buckets
        self._dtype = dtype
        self._cache_dtype = cache_dtype
        self._level = level
        self._prefix_blocks = prefix_blocks
        self._mesh = mesh
        self._everything: dict[int, Array] = {}  # rows -> a mask that allows all tokens

        def caches() -> list[KVCache]:
            return [self._empty_rows(), self._empty_cache(prefix_blocks, BLOCK)]

        check_room(
            jax.eval_shape(caches),
            f"The KV cache of {buckets.max_batch} rows of {buckets.max_len} tokens, with {prefix_blocks * BLOCK} kept,",
            "lower max_batch, the context (max_len), or what is kept of prompts",
            devices=cache_devices(model.config, mesh),
        )
        self._cache: KVCache
        self._rows: RowSettings
        self.prefixes: PrefixCache
        self._start_empty()

    def reset(self) -> None:
        """Empty rows and no kept blocks, as at the start."""
        for array in jax.tree.leaves((self._cache, self._rows)):  # there may not be room for a second one
            array.delete()
        self._start_empty()

    def seat(self, row: int, request: Request, seed: int, block_keys: Sequence[bytes]) -> int:
        """Gives a row to a request; says how many tokens of its prompt were kept from earlier ones."""
        self._cache, held = self.prefixes.load(self._cache, row, block_keys)
        settings = row_settings(request.sampling, request.prompt_ids, seed, self._model.config.vocab_size)
        self._rows = admit(self._rows, np.int32(row), settings)
        return held

    def move(self, source: int, target: int) -> None:
        self._cache, self._rows = self._move(source, target)()

    def keep_block(self, row: int, index: int, key: bytes) -> None:
        """Keeps one block of a row's prompt for later requests."""
        self.prefixes.save(self._cache, row, index, key)

    def run(self, run: Run) -> Array | StepResult:
        """Sends a run of the model, and the choice of the tokens that are asked for.

        Returns:
            What was chosen; hidden states where nothing is asked for.
        """
        self._cache, hidden_PRD = self._advance(run)()
        asked = [share.row - run.first for share in run.shares if share.is_asked]
        if not asked:
            return hidden_PRD
        self._rows, result = self._choose(run, self._buckets.asked(run.shape, max(asked) + 1), hidden_PRD)()
        return result

    def compile(self) -> None:
        """Compiles every program, several at a time."""
        calls = list(self._all_calls())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda call: call.func.lower(*call.args, **call.keywords).compile(), calls))
        self._cache = self.prefixes.warmup(self._cache)

    def _all_calls(self) -> Iterator[Call]:
        buckets, config = self._buckets, self._model.config
        shapes = {shape._replace(context=buckets.program_context(shape.context)) for shape in buckets.all_shapes()}
        for shape in shapes:
            yield self._advance(Run(shape))
        for shape in {shape._replace(length=1, context=0) for shape in shapes}:
            hidden = self._whole(jnp.zeros((1 + shape.draft, shape.rows, config.hidden_size), self._dtype))
            for rows in {buckets.asked(shape, n) for n in buckets.all_batches()}:
                yield self._choose(Run(shape), rows, hidden)
        yield self._move(0, 0)
        nothing = row_settings(SamplingParams(temperature=0.0), (), 0, config.vocab_size)
        yield partial(admit, self._rows, np.int32(0), nothing)

    def _empty_cache(self, rows: int, length: int, chunk: int | None = None) -> KVCache:
        return allocate_cache(
            self._model.config, rows, length, self._cache_dtype, chunk=chunk, level=self._level, mesh=self._mesh
        )

    def _empty_rows(self) -> KVCache:
        buckets = self._buckets
        return self._empty_cache(buckets.max_batch, buckets.max_len, buckets.longest)

    def _whole(self, tree: Any) -> Any:
        return tree if self._mesh is None else jax.device_put(tree, replicated(self._mesh))

    def _start_empty(self) -> None:
        self._cache = self._empty_rows()
        self._rows = self._whole(empty_rows(self._buckets.max_batch, self._model.config.vocab_size))
        self._cache.use_huge_pages()
        self.prefixes = PrefixCache(self._empty_cache(self._prefix_blocks, BLOCK))

    def _advance(self, run: Run) -> Call:
        return partial(
            advance, self._model.config, self._model.params, self._cache, self._rows.last_B, Feed.of(run),
            dtype=self._dtype, context=self._buckets.program_context(run.shape.context), mesh=self._mesh,
        )  # fmt: skip

    def _move(self, source: int, target: int) -> Call:
        return partial(move_row, self._cache, self._rows, np.int32(source), np.int32(target))

    def _choose(self, run: Run, rows: int, hidden_PRD: Array) -> Call:
        asked = Asked.of(run, rows, self._all_tokens(rows))
        return partial(choose, self._model.config, self._head, self._rows, hidden_PRD, asked, mesh=self._mesh)

    def _all_tokens(self, rows: int) -> Array:
        """A mask that allows everything, made once."""
        if rows not in self._everything:
            self._everything[rows] = jnp.ones((rows, self._model.config.vocab_size), bool)
        return self._everything[rows]
