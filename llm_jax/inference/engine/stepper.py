"""One step of the engine: admit, compact, collect if needed, plan, dispatch, collect."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax import Array

from llm_jax.inference.engine.prefix_cache import BLOCK_SIZE
from llm_jax.inference.engine.programs import StepResult
from llm_jax.inference.engine.request import TokenEvent
from llm_jax.inference.engine.runner import Runner
from llm_jax.inference.engine.sampling import SampledTokens
from llm_jax.inference.engine.scheduler import Scheduler, SequenceState
from llm_jax.inference.engine.step_plan import LAST_TOKEN, Buckets, Chunk, ForwardPass, PassShape, plan_step
from llm_jax.inference.engine.token_budget import TokenBudget


@dataclass(frozen=True)
class _InFlight:
    """A dispatched forward pass whose result is not collected yet.

    Attributes:
        sampled: the sequences that get a token, each with its index in the result.
    """

    shape: PassShape
    dispatched_at: float
    result: Array | StepResult
    sampled: Sequence[tuple[SequenceState, int]]


class Stepper:
    """Runs the scheduler's requests on the runner's device, step by step, in one thread.

    Steps are pipelined: while the device computes one, the host dispatches the next, whose input tokens it does not
    need to know.

    Args:
        use_cache: False computes each sequence anew for each token.

    Attributes:
        prefix_queries, prefix_hits, drafted, accepted: counters, see `EngineStats`.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, buckets: Buckets, *, use_cache: bool) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._buckets = buckets
        self._use_cache = use_cache
        self._budget = TokenBudget(buckets)
        self._in_flight: deque[_InFlight] = deque()  # oldest first
        self._collected_at = 0.0
        self.prefix_queries = self.prefix_hits = self.drafted = self.accepted = 0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._in_flight)

    def step(self) -> bool:
        """Dispatches the next step and collects the tokens of the one before. False when nothing is left to do.

        An exception ends every running request, which gets it as its last event; the engine stays usable.
        """
        try:
            self._admit()
            self._compact()
            if self._has_draft() or not self._can_pipeline():
                self._collect(remaining=0)  # drafts and grammars depend on the last token
            decoding, prefilling = self._plan_chunks()
            passes = plan_step(self._buckets, [*decoding.values()], [*prefilling.values()])
            self._dispatch(passes, decoding | prefilling)
            # Behind draft tokens, the next chunk starts where the last accepted one is.
            is_drafted = any(chunk.draft_count for chunk in decoding.values())
            self._collect(remaining=0 if is_drafted or not self._can_pipeline() else len(passes))
        except Exception as error:
            self._fail(error)
        return self.has_work

    def warmup(self) -> None:
        """Compiles every program that a request can need, and measures its time."""
        self._runner.compile()
        for shape in self._buckets.all_shapes():
            self._dispatch_pass(ForwardPass.filled(shape))
            self._collect(remaining=0)

    def _admit(self) -> None:
        """Sets up a slot for each newly admitted request, with what the prefix cache has of its prompt."""
        for sequence in self._scheduler.admit():
            request = sequence.request
            sequence.block_keys = self._runner.prefix_cache.block_keys(request.prompt_ids, request.salt)
            sequence.cached = self._runner.assign_slot(sequence.slot, request, sequence.seed, sequence.block_keys)
            sequence.saved_blocks = sequence.cached // BLOCK_SIZE
            self.prefix_queries += len(request.prompt_ids)
            self.prefix_hits += sequence.cached
            sequence.on_admit(sequence.cached)

    def _compact(self) -> None:
        """Moves a sequence to a lower slot where that makes the decode batch smaller."""
        move = self._scheduler.compact(self._buckets.batch)
        if move is not None:
            self._runner.move_slot(*move)

    def _has_draft(self) -> bool:
        """Prompt lookup offers draft tokens for the only running sequence."""
        running = self._scheduler.running
        is_alone = all(sequence.slot == 0 for sequence in running)  # a larger batch keeps the processor busy without
        return self._buckets.draft > 0 and is_alone and any(sequence.prompt_lookup.draft(1) for sequence in running)

    def _can_pipeline(self) -> bool:
        """The next step can be dispatched before this one's tokens are known."""
        return self._use_cache and all(sequence.request.constraint is None for sequence in self._scheduler.running)

    def _plan_chunks(self) -> tuple[dict[SequenceState, Chunk], dict[SequenceState, Chunk]]:
        """The chunks of the sequences that decode, and of those that prefill."""
        with_draft = self._has_draft() and self._can_pipeline()
        sequences = self._scheduler.decoding() if self._use_cache else []
        decoding = {sequence: self._decode_chunk(sequence, with_draft=with_draft) for sequence in sequences}
        prefilling = self._budget.prefill_chunks([*decoding.values()], self._scheduler.prefilling())
        for chunks in (decoding, prefilling):
            for sequence, chunk in chunks.items():
                if chunk.is_sampled and sequence.request.constraint is not None:
                    chunks[sequence] = replace(chunk, allowed_V=self._allowed_tokens(sequence))
        return decoding, prefilling

    def _decode_chunk(self, sequence: SequenceState, *, with_draft: bool) -> Chunk:
        """The last token of a sequence, and draft tokens where its text repeats."""
        draft: list[int] = []
        if with_draft:
            free = self._buckets.max_len - sequence.cached - 1
            draft = sequence.prompt_lookup.draft(min(self._buckets.draft, free))
            self.drafted += len(draft)
        return Chunk(sequence.slot, sequence.cached, [LAST_TOKEN, *draft], len(draft))

    def _allowed_tokens(self, sequence: SequenceState) -> np.ndarray | None:
        """The tokens that a grammar allows next, packed; None for all. A grammar that fails ends its own request."""
        assert sequence.request.constraint is not None
        try:
            return sequence.request.constraint.mask(sequence.generated)
        except Exception as error:
            self._end(sequence, error)
            return None

    def _dispatch(self, passes: Sequence[ForwardPass], chunks: Mapping[SequenceState, Chunk]) -> None:
        """Dispatches the forward passes of a step; its sequences advance by their chunks."""
        by_slot = {chunk.slot: sequence for sequence, chunk in chunks.items()}
        for forward_pass in passes:
            first = forward_pass.first_slot
            sampled = [(by_slot[c.slot], c.slot - first) for c in forward_pass.chunks if c.is_sampled]
            self._dispatch_pass(forward_pass, sampled)
        for sequence, chunk in chunks.items():
            sequence.cached += len(chunk.tokens) - chunk.draft_count
            sequence.sampled += chunk.is_sampled
            if not sequence.is_prefilled:
                sequence.is_prefilled = chunk.is_sampled
                self._save_blocks(sequence)

    def _dispatch_pass(self, forward_pass: ForwardPass, sampled: Sequence[tuple[SequenceState, int]] = ()) -> None:
        result = self._runner.dispatch(forward_pass)
        self._in_flight.append(_InFlight(forward_pass.shape, time.perf_counter(), result, sampled))

    def _save_blocks(self, sequence: SequenceState) -> None:
        """Stores the blocks of a prompt that are complete in its slot, for later requests."""
        while sequence.saved_blocks < min(len(sequence.block_keys), sequence.cached // BLOCK_SIZE):
            index = sequence.saved_blocks
            self._runner.save_block(sequence.slot, index, sequence.block_keys[index])
            sequence.saved_blocks += 1

    def _collect(self, *, remaining: int) -> None:
        """Waits for the oldest passes until `remaining` are in flight, and hands out their tokens."""
        while len(self._in_flight) > remaining:
            oldest = self._in_flight.popleft()
            result = jax.tree.map(np.asarray, oldest.result)
            now = time.perf_counter()
            self._budget.record(oldest.shape, now - max(self._collected_at, oldest.dispatched_at))
            self._collected_at = now
            for sequence, index in oldest.sampled:
                accepted = int(result.count_B[index]) - 1
                sequence.cached += accepted
                sequence.sampled += accepted
                self.accepted += accepted
                for position in range(1 + accepted):
                    if not sequence.has_ended:
                        self._hand_out(sequence, result.sampled, (position, index))

    def _hand_out(self, sequence: SequenceState, sampled: SampledTokens, at: tuple[int, int]) -> None:
        """Adds a token to its sequence and sends its event; ends the request with its last token."""
        token = int(sampled.token_B[at])
        finish = sequence.append(token)
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        alternatives = sequence.request.sampling.logprobs
        if alternatives is not None:
            logprob = float(sampled.logprob_B[at])
            pairs = zip(sampled.top_BA[at].tolist(), sampled.top_logprob_BA[at].tolist(), strict=True)
            top = tuple(pairs)[:alternatives]
        if not self._use_cache:
            sequence.cached, sequence.is_prefilled = 0, False  # compute it from the start again
        event = TokenEvent(token, logprob, top, finish)
        if finish is None:
            sequence.on_event(event)
        else:
            self._end(sequence, event)

    def _end(self, sequence: SequenceState, last: TokenEvent | Exception) -> None:
        """Frees a sequence's slot, then sends its last event, unless it was cancelled meanwhile."""
        if self._scheduler.end(sequence):
            sequence.on_event(last)

    def _fail(self, error: Exception) -> None:
        """Ends every running request and empties the device state: a failed step leaves donated arrays deleted."""
        self._in_flight.clear()
        self._runner.reset()
        for sequence in self._scheduler.running:
            self._end(sequence, error)
