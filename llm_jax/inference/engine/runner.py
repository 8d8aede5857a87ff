"""The device side of the engine: its arrays, and the programs that are dispatched to it.

Dispatch does not wait: each method returns arrays that the device is still computing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from llm_jax.inference.engine.block_pool import BLOCK_TOKENS
from llm_jax.inference.engine.inputs import ModelInputs, SamplingInputs
from llm_jax.inference.engine.program_set import Call, ProgramSet
from llm_jax.inference.engine.programs import (
    StepResult,
    Weights,
    assign_slot,
    decode,
    forward_chunks,
    sample_tokens,
    score_tokens,
)
from llm_jax.inference.engine.request import Request, SamplingParams, TokenLogprob
from llm_jax.inference.engine.sampling_state import SamplingState
from llm_jax.inference.engine.step_plan import Buckets, ForwardPass, PassShape
from llm_jax.kernels import Level, WeightDtype
from llm_jax.model import AdapterStack, KVCache, Model, allocate_cache, head_params
from llm_jax.parallel import replicated

_SCORED = 64  # prompt tokens whose log-probabilities are computed at a time: logits of more would fill caches


class SamplerShape(NamedTuple):
    """The static sizes of a sampling program: those of a forward pass, and how many of its sequences are sampled."""

    sequences: int
    draft: int
    batch: int


class Runner:
    """Parameters, KV cache, sampling state and programs of one engine.

    Args:
        model: its parameters as the programs take them, on the devices where they stay.
        blocks: how many the KV cache has, for each group of layers.
        tables: the blocks of each slot (`BlockPool.tables`), read when a forward pass is dispatched.
        dtype: compute dtype. cache_dtype: dtype of cached keys and values.
        level: which kernels read and write the cache.
        mesh: the devices that all arrays are spread over; None on one device.
        adapters: those that serve beside the model.
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
        adapters: AdapterStack | None = None,
    ) -> None:
        self._model = model
        self._weights = Weights.of(model.params)
        self._adapters = adapters
        self._adapter_B = None if adapters is None else np.full(buckets.max_batch, -1, np.int32)
        self._head = head_params(model.config, model.params)
        self._buckets = buckets
        self._tables = tables
        self._dtype = dtype
        self._mesh = mesh
        self._new_cache = partial(
            allocate_cache, model.config, blocks, BLOCK_TOKENS, cache_dtype, level=level, mesh=mesh
        )
        self._unmasked: dict[int, Array] = {}  # batch -> the mask that allows all tokens
        self._programs = ProgramSet()
        self._cache: KVCache
        self._state: SamplingState
        self._allocate()

    @property
    def vocab_size(self) -> int:
        return self._model.config.vocab_size

    def reset(self) -> None:
        """Empties the cache and all slots."""
        for array in jax.tree.leaves((self._cache, self._state)):  # memory may not suffice for a second one
            array.delete()
        self._allocate()

    def prepare(self, *, complete: bool) -> None:
        """Makes all programs; without `complete`, those with which any pass can be run, and the others in a thread."""
        self._programs.prepare([*self._calls()], complete=complete)

    def close(self) -> None:
        self._programs.close()

    def assign_slot(self, slot: int, request: Request, seed: int, generated: Sequence[int], adapter: int = -1) -> None:
        """Sets up a slot's sampling for a request that has generated some tokens; `adapter`: the slot of its own."""
        if self._adapter_B is not None:
            self._adapter_B[slot] = adapter
        vocab_size = self._model.config.vocab_size
        new = SamplingState.of(request.sampling, request.prompt_ids, seed, vocab_size, generated)
        self._state = self._programs.run(self._assign_call(slot, new))

    def forward(self, forward_pass: ForwardPass) -> tuple[ForwardPass, Array, Array]:
        """Dispatches a forward pass.

        Returns:
            The pass, in the shape that was run, hidden states [P, R, D] for `sample`, and those of all tokens [M, D].
        """
        shape = self._buckets.compiled(forward_pass.shape)
        if self._programs.missing and shape not in self._programs.ready:
            shape = min((other for other in self._ready(PassShape) if other.holds(shape)), key=lambda s: s.tokens)
        forward_pass = replace(forward_pass, shape=shape)
        self._cache, hidden_PRD, hidden_MD = self._programs.run(self._forward_call(forward_pass))
        return forward_pass, hidden_PRD, hidden_MD

    def decode(self, forward_pass: ForwardPass) -> StepResult:
        """Dispatches the steps of a forward pass, each with its sampling: tokens in the order of its chunks."""
        result: StepResult
        self._cache, self._state, result = self._programs.run(self._decode_call(forward_pass))
        return result

    def sample(self, forward_pass: ForwardPass, hidden_PRD: Array, masks: Mapping[int, np.ndarray]) -> StepResult:
        """Dispatches the sampling behind a forward pass: tokens in the order of its chunks.

        Args:
            masks: the allowed tokens of some chunks, uint32 [W].
        """
        shape = self._sampler_shape(forward_pass.shape, forward_pass.sampled)
        if self._programs.missing and shape not in self._programs.ready:
            shape = min(s for s in self._ready(SamplerShape) if s[:2] == shape[:2] and s.batch >= shape.batch)
        result: StepResult
        self._state, result = self._programs.run(self._sample_call(forward_pass, shape, hidden_PRD, masks))
        return result

    def prompt_logprobs(self, hidden_TD: np.ndarray, ids: Sequence[int], alternatives: int) -> Iterator[TokenLogprob]:
        """The log-probabilities of prompt tokens, each behind one of these hidden states. Waits for the device."""
        for start in range(0, len(ids), _SCORED):
            count = min(_SCORED, len(ids) - start)
            hidden_MD = np.zeros((_SCORED, hidden_TD.shape[1]), hidden_TD.dtype)
            token_M = np.zeros(_SCORED, np.int32)
            hidden_MD[:count], token_M[:count] = hidden_TD[start : start + count], ids[start : start + count]
            scores = self._programs.run(self._score_call(self._replicated(hidden_MD), token_M))
            logprob_M, top_MA, top_logprob_MA = (np.asarray(array)[:count].tolist() for array in scores)
            for token, logprob, *top in zip(token_M.tolist(), logprob_M, top_MA, top_logprob_MA, strict=False):
                yield TokenLogprob(token, logprob, tuple(zip(*top, strict=True))[:alternatives])

    @property
    def missing_programs(self) -> int:
        """How many programs are still being made, in a thread."""
        return self._programs.missing

    def _ready(self, kind: type) -> list[Any]:
        return [name for name in list(self._programs.ready) if isinstance(name, kind)]

    def _calls(self) -> Iterator[Call]:
        """Calls of all programs, in the order of need: a single request, then many."""
        buckets, config = self._buckets, self._model.config
        state = SamplingState.of(SamplingParams(), (), 0, config.vocab_size)
        yield replace(self._assign_call(0, state), is_needed=True).of_shapes()
        shapes = sorted({buckets.compiled(shape) for shape in buckets.all_shapes()}, key=lambda s: (s.draft, s.tokens))
        samplers = sorted({self._sampler_shape(shape, n) for shape in shapes for n in buckets.all_batches()})
        for sampler in samplers:
            shape = next(s for s in shapes if (s.sequences, s.draft) == sampler[:2])
            hidden = self._replicated(np.zeros((1 + shape.draft, shape.sequences, config.hidden_size), self._dtype))
            call = self._sample_call(ForwardPass(shape), sampler, hidden, {})
            is_last = not any(s > sampler and s[:2] == sampler[:2] for s in samplers)
            yield replace(call, is_needed=is_last and not sampler.draft).of_shapes()
        for shape in shapes:
            is_last = not any(other.holds(shape) for other in shapes if other != shape)
            yield replace(self._forward_call(ForwardPass(shape)), is_needed=is_last and not shape.draft).of_shapes()
        hidden = self._replicated(np.zeros((_SCORED, config.hidden_size), self._dtype))
        for shape in filter(buckets.has_steps, shapes):
            yield self._decode_call(ForwardPass(shape)).of_shapes()
        yield self._score_call(hidden, np.zeros(_SCORED, np.int32)).of_shapes()

    def _assign_call(self, slot: int, new: SamplingState) -> Call:
        return Call(None, assign_slot, (), (self._state, np.int32(slot), new), {})

    def _forward_call(self, forward_pass: ForwardPass) -> Call:
        columns = -(-forward_pass.shape.context // BLOCK_TOKENS)
        inputs = ModelInputs.of(forward_pass, self._tables, columns, self._adapter_B)
        adapters = {} if self._adapters is None else self._adapters.params
        args = self._weights, adapters, self._cache, self._state.last_token_B, inputs
        options = {"dtype": self._dtype, "mesh": self._mesh}
        return Call(forward_pass.shape, forward_chunks, (self._model.config,), args, options)

    def _sample_call(
        self, forward_pass: ForwardPass, shape: SamplerShape, hidden_PRD: Array, masks: Mapping[int, np.ndarray]
    ) -> Call:
        inputs = SamplingInputs.of(forward_pass, shape.batch, self._unmasked_BW(shape.batch), masks)
        args = self._head, self._state, hidden_PRD, inputs
        return Call(shape, sample_tokens, (self._model.config,), args, {"mesh": self._mesh})

    def _decode_call(self, forward_pass: ForwardPass) -> Call:
        shape = self._buckets.compiled(forward_pass.shape)
        batch = self._buckets.sampled(shape, shape.tokens)
        sampling = SamplingInputs.of(forward_pass, batch, self._unmasked_BW(batch), {})
        forward = self._forward_call(replace(forward_pass, shape=shape))
        weights, adapters, cache, _, inputs = forward.args
        args = weights, adapters, cache, self._state, inputs, sampling, np.int32(forward_pass.steps)
        return replace(forward, name=("decode", shape), program=decode, args=args)

    def _score_call(self, hidden_MD: Array, token_M: np.ndarray) -> Call:
        args = self._head, hidden_MD, token_M
        return Call("score", score_tokens, (self._model.config,), args, {"mesh": self._mesh})

    def _sampler_shape(self, shape: PassShape, sampled: int) -> SamplerShape:
        return SamplerShape(shape.sequences, shape.draft, self._buckets.sampled(shape, sampled))

    def _unmasked_BW(self, batch: int) -> Array:
        """The mask that allows all tokens, made once per batch size."""
        if batch not in self._unmasked:
            words = -(-self._model.config.vocab_size // 32)
            self._unmasked[batch] = self._replicated(jax.device_put(np.full((batch, words), 0xFFFFFFFF, np.uint32)))
        return self._unmasked[batch]

    def _allocate(self) -> None:
        self._state = self._replicated(SamplingState.empty(self._buckets.max_batch, self._model.config.vocab_size))
        self._cache = self._new_cache()

    def _replicated(self, tree: Any) -> Any:
        return tree if self._mesh is None else jax.device_put(tree, replicated(self._mesh))
