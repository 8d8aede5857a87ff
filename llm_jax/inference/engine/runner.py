"""The device side of the engine: its arrays, and the programs that are dispatched to it.

Dispatch does not wait: each method returns arrays that the device is still computing.
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

from llm_jax.inference.engine.block_pool import BLOCK_TOKENS
from llm_jax.inference.engine.inputs import ModelInputs, SamplingInputs
from llm_jax.inference.engine.programs import StepResult, assign_slot, forward_chunks, sample_tokens
from llm_jax.inference.engine.request import Request, SamplingParams
from llm_jax.inference.engine.sampling_state import SamplingState
from llm_jax.inference.engine.step_plan import Buckets, ForwardPass
from llm_jax.kernels import Level, WeightDtype
from llm_jax.model import KVCache, Model, allocate_cache, head_params
from llm_jax.parallel import replicated

_Call = partial[Any]  # of a jitted function with its arguments


class Runner:
    """Parameters, KV cache and sampling state of one engine.

    Args:
        model: its parameters as the programs take them, on the devices where they stay.
        blocks: how many the KV cache has, for each group of layers.
        tables: the blocks of each slot (`BlockPool.tables`), read when a forward pass is dispatched.
        dtype: compute dtype. cache_dtype: dtype of cached keys and values.
        level: which kernels read and write the cache.
        mesh: the devices that all arrays are spread over; None on one device.
    """

    def __init__(
        self,
        model: Model,
        buckets: Buckets,
        *,
        blocks: Sequence[int],
        tables: Sequence[np.ndarray],
        dtype: jnp.dtype,
        cache_dtype: WeightDtype,
        level: Level,
        mesh: Mesh | None = None,
    ) -> None:
        self._model = model
        self._head = head_params(model.config, model.params)
        self._buckets = buckets
        self._blocks = blocks
        self._tables = tables
        self._dtype = dtype
        self._cache_dtype = cache_dtype
        self._level = level
        self._mesh = mesh
        self._unmasked: dict[int, Array] = {}  # batch -> the mask that allows all tokens
        self._cache: KVCache
        self._state: SamplingState
        self._allocate()

    def reset(self) -> None:
        """Empties the cache and all slots."""
        for array in jax.tree.leaves((self._cache, self._state)):  # memory may not suffice for a second one
            array.delete()
        self._allocate()

    def assign_slot(self, slot: int, request: Request, seed: int, generated: Sequence[int]) -> None:
        """Sets up a slot's sampling for a request that has generated some tokens."""
        vocab_size = self._model.config.vocab_size
        new = SamplingState.of(request.sampling, request.prompt_ids, seed, vocab_size, generated)
        self._state = assign_slot(self._state, np.int32(slot), new)

    def dispatch(self, forward_pass: ForwardPass) -> Array | StepResult:
        """Dispatches a forward pass and the sampling behind it.

        Returns:
            The sampled tokens, in the order of the chunks; hidden states where no chunk is sampled.
        """
        self._cache, hidden_PRD = self._forward_call(forward_pass)()
        if not forward_pass.sampled:
            return hidden_PRD
        batch = self._buckets.sampled(forward_pass.shape, forward_pass.sampled)
        self._state, result = self._sample_call(forward_pass, batch, hidden_PRD)()
        return result

    def compile(self) -> None:
        """Compiles every program, several at a time."""
        calls = list(self._all_calls())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda call: call.func.lower(*call.args, **call.keywords).compile(), calls))

    def _all_calls(self) -> Iterator[_Call]:
        buckets, config = self._buckets, self._model.config
        shapes = {shape._replace(context=buckets.compiled_context(shape.context)) for shape in buckets.all_shapes()}
        for shape in shapes:
            yield self._forward_call(ForwardPass(shape))
        for shape in {shape._replace(length=1, context=0) for shape in shapes}:
            hidden = self._replicated(jnp.zeros((1 + shape.draft, shape.sequences, config.hidden_size), self._dtype))
            for batch in {buckets.sampled(shape, n) for n in buckets.all_batches()}:
                yield self._sample_call(ForwardPass(shape), batch, hidden)
        yield partial(
            assign_slot, self._state, np.int32(0), SamplingState.of(SamplingParams(), (), 0, config.vocab_size)
        )

    def _forward_call(self, forward_pass: ForwardPass) -> _Call:
        columns = -(-self._buckets.compiled_context(forward_pass.shape.context) // BLOCK_TOKENS)
        return partial(
            forward_chunks,
            self._model.config,
            self._model.params,
            self._cache,
            self._state.last_token_B,
            ModelInputs.of(forward_pass, self._tables, columns),
            dtype=self._dtype,
            mesh=self._mesh,
        )

    def _sample_call(self, forward_pass: ForwardPass, batch: int, hidden_PRD: Array) -> _Call:
        inputs = SamplingInputs.of(forward_pass, batch, self._unmasked_BV(batch))
        return partial(sample_tokens, self._model.config, self._head, self._state, hidden_PRD, inputs, mesh=self._mesh)

    def _unmasked_BV(self, batch: int) -> Array:
        """The mask that allows all tokens, made once per batch size."""
        if batch not in self._unmasked:
            self._unmasked[batch] = jnp.ones((batch, self._model.config.vocab_size), bool)
        return self._unmasked[batch]

    def _allocate(self) -> None:
        config = self._model.config
        self._state = self._replicated(SamplingState.empty(self._buckets.max_batch, config.vocab_size))
        self._cache = allocate_cache(
            config, self._blocks, BLOCK_TOKENS, self._cache_dtype, level=self._level, mesh=self._mesh
        )

    def _replicated(self, tree: Any) -> Any:
        return tree if self._mesh is None else jax.device_put(tree, replicated(self._mesh))
