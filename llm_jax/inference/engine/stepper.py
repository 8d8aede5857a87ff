"""One step of the engine: admit, collect if needed, plan, make room, dispatch, collect."""

import math
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
from jax import Array

from llm_jax.errors import InferenceError
from llm_jax.inference.engine.block_pool import BLOCK_TOKENS
from llm_jax.inference.engine.masks import compute_masks, without
from llm_jax.inference.engine.planner import Chunks, Planner
from llm_jax.inference.engine.programs import NO_TOKEN, NOT_FINITE, StepResult
from llm_jax.inference.engine.request import TokenEvent
from llm_jax.inference.engine.runner import Runner
from llm_jax.inference.engine.scheduler import Scheduler, SequenceState
from llm_jax.inference.engine.stats import compilations
from llm_jax.inference.engine.step_plan import Buckets, Chunk, ForwardPass, plan_step

_NOT_FINITE = (
    "The logits behind {} generated tokens are infinite or not numbers, or all tokens are ruled out; the weights may "
    "be damaged, or overflow in their dtype."
)

_NOT_FINITE_HIDDEN = (
    "Hidden states of the text are infinite or not numbers; the weights may be damaged, or overflow in their dtype."
)


@dataclass(frozen=True)
class _InFlight:
    """A dispatched forward pass whose result is not collected yet.

    Attributes:
        compilations: before it; its time is no measure where one came between.
        result: None where no sequence gets a token.
        sampled: the sequences that get one, in the order of the result.
        read: the chunks whose hidden states are read, each with its sequence and its first row in hidden_MD.
    """

    forward_pass: ForwardPass
    dispatched_at: float
    compilations: int
    result: StepResult | None
    sampled: Sequence[SequenceState]
    read: Sequence[tuple[SequenceState, Chunk, int]]
    hidden_MD: Array | None


class Stepper:
    """Runs the scheduler's requests on the runner's device, step by step, in one thread.

    Steps are pipelined: while the device computes one, the host dispatches the next, whose input tokens it does not
    need to know.

    Args:
        use_cache: False computes each sequence anew for each token.

    Attributes:
        prefix_queries, prefix_hits, drafted, accepted, compilations, failures: see `EngineStats`.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, buckets: Buckets, *, use_cache: bool) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._buckets = buckets
        self._use_cache = use_cache
        self._planner = Planner(scheduler, buckets)
        self._in_flight: deque[_InFlight] = deque()  # oldest first
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="llm-masks")
        self._collected_at = 0.0
        self._steps = 0
        self.prefix_queries = self.prefix_hits = self.drafted = self.accepted = self.compilations = self.failures = 0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._in_flight)

    def step(self) -> bool:
        """Dispatches the next step and collects the tokens of the one before. False when nothing is left to do.

        An exception ends every running request, which gets it as its last event; the engine stays usable.
        """
        before = compilations(here=True)
        self._steps += 1
        try:
            self._admit()
            if self._has_draft() or not self._use_cache:
                self._collect(remaining=0)  # drafts depend on the last token
            decoding, prefilling = self._plan()
            while not self._make_room(decoding | prefilling):
                decoding, prefilling = self._plan()
            passes = plan_step(self._buckets, [*decoding.values()], [*prefilling.values()])
            self._dispatch(passes, decoding | prefilling)
            # Behind draft tokens, the next chunk starts where the last accepted one is.
            is_drafted = any(chunk.draft_count for chunk in decoding.values())
            is_ahead = self._use_cache and not is_drafted and self._planner.may_be_ahead(passes)
            self._collect(remaining=len(passes) if is_ahead else 0)
        except Exception as error:
            self._fail(error)
        self.compilations += compilations(here=True) - before
        return self.has_work

    def _admit(self) -> None:
        """Sets up a slot for each newly admitted request; a tenant with too few slots gets one of another."""
        if (last := self._scheduler.over_share()) is not None:
            self._collect(remaining=0)
            if not self._scheduler.vacate_ended():
                self._scheduler.put_back(last)
        for sequence in self._scheduler.admit():
            request, generated = sequence.request, sequence.generated
            adapter = -1 if sequence.adapter is None else sequence.adapter.index
            self._runner.assign_slot(sequence.slot, request, sequence.seed, generated, adapter)
            sequence.sampled = len(generated)
            if not generated:  # otherwise it was put back
                self.prefix_queries += len(request.prompt_ids)
                self.prefix_hits += sequence.cached
                sequence.on_admit(sequence.cached)

    def _make_room(self, chunks: Mapping[SequenceState, Chunk]) -> bool:
        """Gives each sequence the blocks for its chunk, the first in turn first.

        Returns:
            False where there were not enough: then the last in turn was put back, and the step must be planned anew.
        """
        pool = self._scheduler.pool
        for sequence in sorted(chunks, key=lambda sequence: sequence.turn):
            pool.trim(sequence.slot, sequence.cached)
            if not pool.extend(sequence.slot, chunks[sequence].end):
                self._collect(remaining=0)
                if not self._scheduler.vacate_ended():
                    self._scheduler.put_back_last()
                return False
        return True

    def _has_draft(self) -> bool:
        """Prompt lookup offers draft tokens for the only running sequence, which has no constraint."""
        running = self._scheduler.running
        if not self._buckets.draft or len(running) != 1:  # a larger batch keeps the processor busy without
            return False
        return self._is_free(running) and bool(running[0].prompt_lookup.draft(1))

    def _is_free(self, sequences: Sequence[SequenceState]) -> bool:
        """Nothing rules out tokens, and the programs that decode several tokens are there, or nobody minds that they
        are made now.
        """
        is_ruled = any(s.request.constraint is not None or s.must_go_on for s in sequences)
        return not is_ruled and self._runner.missing_programs == 0

    def _plan(self) -> tuple[Chunks, Chunks]:
        streams = self._scheduler.decoding() if self._use_cache else []
        return self._planner.plan(self._steps, streams, with_draft=self._has_draft(), with_steps=self._is_free(streams))

    def _dispatch(self, passes: Sequence[ForwardPass], chunks: Mapping[SequenceState, Chunk]) -> None:
        """Dispatches the forward passes of a step; its sequences advance by their chunks."""
        by_slot = {chunk.slot: sequence for sequence, chunk in chunks.items()}
        for forward_pass in passes:
            self._dispatch_pass(forward_pass, [by_slot[chunk.slot] for chunk in forward_pass.chunks])
        for sequence, chunk in chunks.items():
            self.drafted += chunk.draft_count
            sequence.cached += chunk.length - chunk.draft_count
            sequence.sampled += max(chunk.steps, chunk.is_sampled)
            sequence.decoded_in = self._steps
            if not sequence.is_prefilled:
                sequence.is_prefilled = chunk.end == len(sequence.tokens)
                self._name_blocks(sequence)

    def _dispatch_pass(self, forward_pass: ForwardPass, sequences: Sequence[SequenceState]) -> None:
        """Dispatches a forward pass over chunks of these sequences, and the sampling behind it.

        A constraint needs the token before: it is collected, and masks are made, while the device runs the pass.
        """
        compiled, start = compilations(), time.perf_counter()
        if forward_pass.steps:
            decoded = self._runner.decode(forward_pass)
            self._in_flight.append(_InFlight(forward_pass, start, compiled, decoded, sequences, [], None))
            return
        forward_pass, hidden_PRD, hidden_MD = self._runner.forward(forward_pass)
        sampled = sequences[: forward_pass.sampled]
        result = self._runner.sample(forward_pass, hidden_PRD, self._masks(sampled)) if sampled else None
        rows = zip(sequences, forward_pass.chunks, forward_pass.first_rows, strict=True)
        read = [row for row in rows if row[0].request.reads_prompt and not row[0].generated]
        self._in_flight.append(_InFlight(forward_pass, start, compiled, result, sampled, read, hidden_MD))

    def _masks(self, sampled: Sequence[SequenceState]) -> dict[int, np.ndarray]:
        """What some sequences may generate next. A constraint that fails ends its own request."""
        constraints = {i: s.request.constraint for i, s in enumerate(sampled) if s.request.constraint is not None}
        masks: dict[int, np.ndarray | None] = {}
        if constraints:
            self._collect(remaining=0)
            rows = [(constraint, sampled[i].generated) for i, constraint in constraints.items()]
            for i, mask in zip(constraints, compute_masks(self._threads, rows), strict=True):
                if isinstance(mask, Exception):
                    self._end(sampled[i], mask)
                else:
                    masks[i] = mask
        for i, sequence in enumerate(sampled):
            if sequence.must_go_on:
                masks[i] = without(masks.get(i), sequence.request.sampling.stop_ids, self._runner.vocab_size)
        return {i: mask for i, mask in masks.items() if mask is not None}

    def _name_blocks(self, sequence: SequenceState) -> None:
        """Makes the complete blocks of a sequence known to the pool, for later requests that begin alike."""
        complete = min(sequence.cached, len(sequence.tokens)) // BLOCK_TOKENS
        if complete > sequence.named and self._use_cache:
            keys = sequence.keys(complete * BLOCK_TOKENS)
            for index in range(sequence.named, complete):
                self._scheduler.pool.name(sequence.slot, index, keys[index])
            sequence.named = complete

    def _collect(self, *, remaining: int) -> None:
        """Waits for the oldest passes until `remaining` are in flight, and hands out their tokens."""
        while len(self._in_flight) > remaining:
            oldest = self._in_flight.popleft()
            jax.block_until_ready(oldest.hidden_MD if oldest.result is None else oldest.result.token_PB)
            now = time.perf_counter()
            self.failures = 0
            if compilations() == oldest.compilations:
                seconds = now - max(self._collected_at, oldest.dispatched_at)
                self._planner.record(oldest.forward_pass, seconds)
            self._collected_at = now
            hidden_MD = np.asarray(oldest.hidden_MD) if oldest.read else np.empty((0, 0))
            for sequence, chunk, row in oldest.read:
                if not sequence.has_ended:
                    self._read(sequence, chunk, hidden_MD[row : row + len(chunk.tokens)])
            if oldest.result is not None:
                self._hand_out_all(oldest.forward_pass, oldest.sampled, oldest.result)

    def _hand_out_all(self, forward_pass: ForwardPass, sequences: Sequence[SequenceState], result: StepResult) -> None:
        """Hands out the tokens of a forward pass. Log-probabilities stay on the device where nobody asks for them."""
        token_BP = np.asarray(result.token_PB).T.tolist()
        for index, sequence in enumerate(sequences):
            tokens = [token for token in token_BP[index] if token != NO_TOKEN]
            accepted = len(tokens) - max(1, forward_pass.steps)
            sequence.cached += accepted
            sequence.sampled += accepted
            self.accepted += accepted
            for position, token in enumerate(tokens):
                if not sequence.has_ended:
                    self._hand_out(sequence, token, result, (position, index))
            if not sequence.has_ended:
                self._name_blocks(sequence)

    def _read(self, sequence: SequenceState, chunk: Chunk, hidden_TD: np.ndarray) -> None:
        """Reads what the request wants to know off the hidden states of a chunk of its prompt."""
        ids, alternatives = sequence.request.prompt_ids, sequence.request.sampling.prompt_logprobs
        if chunk.start == 0:  # the first time, or once more after it was put back
            sequence.prompt_logprobs, sequence.hidden_sum_D = [], np.zeros(hidden_TD.shape[1])
        if alternatives is not None:
            following = ids[chunk.start + 1 : chunk.end + 1]
            sequence.prompt_logprobs += self._runner.prompt_logprobs(hidden_TD, following, alternatives)
            if not all(math.isfinite(token.logprob) for token in sequence.prompt_logprobs[-len(following) :]):
                self._end(sequence, InferenceError(_NOT_FINITE.format(0)))
        if sequence.request.is_embedding:
            sequence.hidden_sum_D += hidden_TD.astype(np.float64).sum(0)
            if chunk.end == len(ids):
                mean_D = (sequence.hidden_sum_D / len(ids)).astype(np.float32)
                self._end(sequence, mean_D if np.isfinite(mean_D).all() else InferenceError(_NOT_FINITE_HIDDEN))

    def _hand_out(self, sequence: SequenceState, token: int, result: StepResult, at: tuple[int, int]) -> None:
        """Adds a token to its sequence and sends its event; ends the request with its last token."""
        if token == NOT_FINITE:
            self._end(sequence, InferenceError(_NOT_FINITE.format(len(sequence.generated))))
            return
        finish = sequence.append(token)
        logprob: float | None = None
        top: tuple[tuple[int, float], ...] = ()
        alternatives = sequence.request.sampling.logprobs
        if alternatives is not None:
            chosen, *likely = (np.asarray(array)[at].tolist() for array in result.logprobs)
            logprob, top = chosen, tuple(zip(*likely, strict=True))[:alternatives]
        if not self._use_cache:
            sequence.cached, sequence.is_prefilled = 0, False  # compute it from the start again
        prompt = tuple(sequence.prompt_logprobs) if len(sequence.generated) == 1 else ()
        event = TokenEvent(token, logprob, top, finish, prompt)
        if finish is None:
            sequence.on_event(event)
        else:
            self._end(sequence, event)

    def _end(self, sequence: SequenceState, last: TokenEvent | np.ndarray | Exception) -> None:
        """Frees a sequence's slot, then sends its last event, unless it was cancelled meanwhile."""
        if self._scheduler.end(sequence):
            sequence.on_event(last)

    def _fail(self, error: Exception) -> None:
        """Ends every running request and empties the device state: a failed step leaves donated arrays deleted."""
        self.failures += 1
        self._in_flight.clear()
        self._runner.reset()
        for sequence in self._scheduler.running:
            self._end(sequence, error)
        self._scheduler.pool.reset()
