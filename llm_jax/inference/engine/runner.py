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

from llm_jax.inference.engine.inputs import ModelInputs, SamplingInputs
from llm_jax.inference.engine.memory import check_memory
from llm_jax.inference.engine.prefix_cache import BLOCK_SIZE, PrefixCache
from llm_jax.inference.engine.programs import StepResult, assign_slot, forward_chunks, move_slot, sample_tokens
from llm_jax.inference.engine.request import Request, SamplingParams
from llm_jax.inference.engine.sampling_state import SamplingState
from llm_jax.inference.engine.step_plan import Buckets, ForwardPass
from llm_jax.kernels import Level, WeightDtype
from llm_jax.model import KVCache, Model, allocate_cache, cache_devices, head_params
from llm_jax.parallel import replicated

_Call = partial[Any]  # of a jitted function with its arguments


class Runner:
    """Parameters, KV cache, sampling state and prefix cache of one engine.

    Args:
        model: its parameters as the programs take them, on the devices where they stay.
        dtype: compute dtype. cache_dtype: dtype of cached keys and values.
        level: which kernels read and write the cache.
        prefix_blocks: blocks of the prefix cache; 0 turns it off.
        mesh: the devices that all arrays are spread over; None on one device.

    Raises:
        ConfigError: the caches do not fit into free memory.
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
        self._unmasked: dict[int, Array] = {}  # batch -> the mask that allows all tokens

        def caches() -> list[KVCache]:
            return [self._slots_cache(), self._blocks_cache()]

        check_memory(
            jax.eval_shape(caches),
            f"The KV cache of {buckets.max_batch} slots of {buckets.max_len} tokens, with a prefix cache of "
            f"{prefix_blocks * BLOCK_SIZE},",
            "lower max_batch, the context (max_len), or the prefix cache",
            devices=cache_devices(model.config, mesh),
        )
        self._cache: KVCache
        self._state: SamplingState
        self.prefix_cache: PrefixCache
        self._allocate()

    def reset(self) -> None:
        """Empties all slots and the prefix cache."""
        for array in jax.tree.leaves((self._cache, self._state)):  # memory may not suffice for a second one
            array.delete()
        self._allocate()

    def assign_slot(self, slot: int, request: Request, seed: int, block_keys: Sequence[bytes]) -> int:
        """Sets up a slot for a request; returns how many tokens of its prompt the prefix cache had."""
        self._cache, cached = self.prefix_cache.load(self._cache, slot, block_keys)
        new = SamplingState.of(request.sampling, request.prompt_ids, seed, self._model.config.vocab_size)
        self._state = assign_slot(self._state, np.int32(slot), new)
        return cached

    def move_slot(self, source: int, target: int) -> None:
        """Copies everything of one slot over another."""
        self._cache, self._state = self._move_call(source, target)()

    def save_block(self, slot: int, index: int, key: bytes) -> None:
        """Stores one block of a slot's prompt in the prefix cache."""
        self.prefix_cache.save(self._cache, slot, index, key)

    def dispatch(self, forward_pass: ForwardPass) -> Array | StepResult:
        """Dispatches a forward pass and the sampling behind it.

        Returns:
            The sampled tokens; hidden states where no chunk is sampled.
        """
        self._cache, hidden_PRD = self._forward_call(forward_pass)()
        sampled = [chunk.slot - forward_pass.first_slot for chunk in forward_pass.chunks if chunk.is_sampled]
        if not sampled:
            return hidden_PRD
        batch = self._buckets.sampled(forward_pass.shape, max(sampled) + 1)
        self._state, result = self._sample_call(forward_pass, batch, hidden_PRD)()
        return result

    def compile(self) -> None:
        """Compiles every program, several at a time."""
        calls = list(self._all_calls())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda call: call.func.lower(*call.args, **call.keywords).compile(), calls))
        self._cache = self.prefix_cache.warmup(self._cache)

    def _all_calls(self) -> Iterator[_Call]:
        buckets, config = self._buckets, self._model.config
        shapes = {shape._replace(context=buckets.compiled_context(shape.context)) for shape in buckets.all_shapes()}
        for shape in shapes:
            yield self._forward_call(ForwardPass(shape))
        for shape in {shape._replace(length=1, context=0) for shape in shapes}:
            hidden = self._replicated(jnp.zeros((1 + shape.draft, shape.sequences, config.hidden_size), self._dtype))
            for batch in {buckets.sampled(shape, n) for n in buckets.all_batches()}:
                yield self._sample_call(ForwardPass(shape), batch, hidden)
        yield self._move_call(0, 0)
        yield partial(
            assign_slot, self._state, np.int32(0), SamplingState.of(SamplingParams(), (), 0, config.vocab_size)
        )

    def _forward_call(self, forward_pass: ForwardPass) -> _Call:
        return partial(
            forward_chunks,
            self._model.config,
            self._model.params,
            self._cache,
            self._state.last_token_B,
            ModelInputs.of(forward_pass),
            dtype=self._dtype,
            context=self._buckets.compiled_context(forward_pass.shape.context),
            mesh=self._mesh,
        )

    def _sample_call(self, forward_pass: ForwardPass, batch: int, hidden_PRD: Array) -> _Call:
        inputs = SamplingInputs.of(forward_pass, batch, self._unmasked_BW(batch))
        return partial(sample_tokens, self._model.config, self._head, self._state, hidden_PRD, inputs, mesh=self._mesh)

    def _move_call(self, source: int, target: int) -> _Call:
        return partial(move_slot, self._cache, self._state, np.int32(source), np.int32(target))

    def _unmasked_BW(self, batch: int) -> Array:
        """The mask that allows all tokens, made once per batch size."""
        if batch not in self._unmasked:
            words = -(-self._model.config.vocab_size // 32)
            self._unmasked[batch] = jnp.full((batch, words), 0xFFFFFFFF, jnp.uint32)
        return self._unmasked[batch]

    def _allocate(self) -> None:
        self._cache = self._slots_cache()
        self._state = self._replicated(SamplingState.empty(self._buckets.max_batch, self._model.config.vocab_size))
        self._cache.use_huge_pages()
        self.prefix_cache = PrefixCache(self._blocks_cache())

    def _slots_cache(self) -> KVCache:
        buckets = self._buckets
        return self._empty_cache(buckets.max_batch, buckets.max_len, buckets.max_chunk)

    def _blocks_cache(self) -> KVCache:
        return self._empty_cache(self._prefix_blocks, BLOCK_SIZE)

    def _empty_cache(self, slots: int, length: int, chunk: int | None = None) -> KVCache:
        return allocate_cache(
            self._model.config, slots, length, self._cache_dtype, chunk=chunk, level=self._level, mesh=self._mesh
        )

    def _replicated(self, tree: Any) -> Any:
        return tree if self._mesh is None else jax.device_put(tree, replicated(self._mesh))
