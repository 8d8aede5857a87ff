"""What the next step computes: which sequences decode, and how many tokens of which prompts go beside them.

While there are several tenants, no newcomer's first token waits for all that a greedy one computes: every other step is
for the prompts of tenants with few requests alone, where there are any; the others are short where that costs little of
the rate, so that streams take turns; and a step is not dispatched ahead, or who comes meanwhile would wait for two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_jax.inference.engine.scheduler import Scheduler, SequenceState
from llm_jax.inference.engine.shares import by_waiting
from llm_jax.inference.engine.step_plan import LAST_TOKEN, MIN_PREFILL, Buckets, Chunk, ForwardPass, plan_step
from llm_jax.inference.engine.token_budget import TokenBudget

CALL = 0.03  # seconds, at most, of one that decodes several tokens

# Seconds of a step while there are several tenants:
AHEAD = 0.01  # at most, of one that is dispatched ahead
SHORT = 0.05  # at most, where WORTHWHILE of the rate is left
LONGEST = 0.1  # at most, where there is any shorter one
WORTHWHILE = 0.6

Chunks = dict[SequenceState, Chunk]


class Planner:
    """Plans one step after the other, by the seconds that earlier ones took."""

    def __init__(self, scheduler: Scheduler, buckets: Buckets) -> None:
        self._scheduler = scheduler
        self._buckets = buckets
        self._budget = TokenBudget(buckets)
        self._light_step = -1  # the last one that was for prompts of light tenants alone

    def plan(
        self, step: int, streams: Sequence[SequenceState], *, with_draft: bool, with_steps: bool
    ) -> tuple[Chunks, Chunks]:
        """The chunks of the sequences that decode, and of those that prefill.

        Args:
            step: its number, counted one by one.
            streams: the sequences that can decode, in order.
            with_draft: draft tokens are to be verified.
            with_steps: a stream alone may decode several tokens in one call.
        """
        prompts, longest = self._scheduler.prefilling(), math.inf
        if self._scheduler.is_shared:
            longest = LONGEST
            tenants = set() if self._light_step == step - 1 else self._scheduler.light_tenants()
            if light := [sequence for sequence in prompts if sequence.request.tenant in tenants]:
                self._light_step, prompts, streams = step, light, ()
            streams = self._in_turns(streams, prompts)
        decoding = {stream: self._decode_chunk(stream, with_draft=with_draft) for stream in streams}
        queued = len(self._scheduler.waiting)
        prefilling = self._budget.prefill_chunks([*decoding.values()], prompts, queued=queued, longest=longest)
        if decoding and with_steps and not (with_draft or prefilling) and (steps := self._steps(decoding)):
            decoding = {stream: replace(chunk, steps=steps) for stream, chunk in decoding.items()}
        return decoding, prefilling

    def record(self, forward_pass: ForwardPass, seconds: float) -> None:
        """Adds what a forward pass took."""
        self._budget.record(self._budget.kind(forward_pass), seconds / max(1, forward_pass.steps), forward_pass.pairs)

    def may_be_ahead(self, passes: Sequence[ForwardPass]) -> bool:
        """Whether these may be computed while the host goes on to plan the next step."""
        return not self._scheduler.is_shared or self._budget.seconds(passes) <= AHEAD

    def _steps(self, decoding: Mapping[SequenceState, Chunk]) -> int:
        """How many tokens these streams decode in one call, for which a request that comes meanwhile waits.

        Returns:
            0 where there is no program that does it.
        """
        passes = plan_step(self._buckets, [*decoding.values()], [])
        if not self._buckets.has_steps(passes[0].shape):
            return 0
        if self._scheduler.is_shared or self._scheduler.waiting:
            return 1
        left = min(stream.request.sampling.max_new_tokens - stream.sampled for stream in decoding)
        return max(1, min(self._buckets.steps, left, int(CALL / self._budget.seconds(passes))))

    def _in_turns(self, streams: Sequence[SequenceState], prompts: Sequence[SequenceState]) -> list[SequenceState]:
        """As many streams as a short step decodes, in order; more where that would cost much of the rate.

        Where tokens of prompts are computed in the same forward pass, some of its room is left to them.
        """
        order = by_waiting(streams)
        with_prompts = bool(prompts) and self._buckets.is_ragged
        first = [Chunk(s.slot, s.cached, s.tokens[s.cached : s.cached + MIN_PREFILL]) for s in prompts[:with_prompts]]

        def seconds(number: int) -> float:
            chunks = [self._decode_chunk(stream, with_draft=False) for stream in order[:number]]
            return self._budget.seconds(plan_step(self._buckets, chunks, first))

        number, whole = len(order), seconds(len(order))
        for size in reversed(self._buckets.decode_sizes):
            fewer = size - size // 4 if with_prompts else size
            if fewer < number:
                shorter = seconds(fewer)
                is_cheap = whole > SHORT and fewer / shorter > WORTHWHILE * number / whole
                if whole == math.inf or not (whole > LONGEST or is_cheap):
                    break
                number, whole = fewer, shorter
        return sorted(order[:number], key=lambda stream: stream.turn)

    def _decode_chunk(self, sequence: SequenceState, *, with_draft: bool) -> Chunk:
        """The last token of a sequence, and draft tokens where its text repeats."""
        draft: list[int] = []
        if with_draft:
            free = self._buckets.max_len - sequence.cached - 1
            draft = sequence.prompt_lookup.draft(min(self._buckets.draft, free))
        return Chunk(sequence.slot, sequence.cached, [LAST_TOKEN, *draft], len(draft))
