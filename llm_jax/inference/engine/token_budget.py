"""The token budget of a step: how many prompt tokens it computes beside the sequences that decode.

Prompts are prefilled in chunks so that running streams go on meanwhile (arXiv:2308.16369). A larger chunk is faster for
the prompt and delays each stream's next token: the budget is what computes most prompt tokens per second, within a
limit on inter-token latency.
"""

from collections.abc import Mapping, Sequence

from llm_jax.inference.engine.scheduler import SequenceState
from llm_jax.inference.engine.step_plan import MIN_PREFILL, Buckets, Chunk, PassShape, plan_step

LATENCY_LIMIT = 1.7  # times a decode-only step; with noise and rounding, a stream's longest gap stays under three times
_WEIGHT_FASTER, _WEIGHT_SLOWER = 0.5, 0.2  # of a new measurement in the average: most slow ones are noise
_OUTLIER_CAP = 2.0  # times the average: a slower measurement counts as this


class TokenBudget:
    """Chooses prefill chunks by the seconds of forward passes: measured, a moving average per shape, or predicted."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._seconds: dict[PassShape, float] = {}

    def record(self, shape: PassShape, seconds: float) -> None:
        """Adds a measurement of a forward pass of this shape."""
        average = self._seconds.get(shape, seconds)
        change = min(seconds, _OUTLIER_CAP * average) - average
        self._seconds[shape] = average + (_WEIGHT_FASTER if change < 0 else _WEIGHT_SLOWER) * change

    def prefill_chunks(
        self, decoding: Sequence[Chunk], prefilling: Sequence[SequenceState]
    ) -> dict[SequenceState, Chunk]:
        """The chunk of each prompt in this step. The budget goes to the oldest prompt first; chunks may be empty.

        Args:
            decoding: the chunks beside which they are computed.
            prefilling: oldest first.
        """
        if not prefilling:
            return {}
        budget = self._prefill_budget(decoding, prefilling)
        chunks = {}
        for sequence in prefilling:
            tokens = sequence.tokens[sequence.cached : sequence.cached + budget]
            is_last = sequence.cached + len(tokens) == len(sequence.tokens)
            is_sampled = is_last and not sequence.request.is_embedding
            chunks[sequence] = Chunk(sequence.slot, sequence.cached, tokens, is_sampled=is_sampled)
            budget -= len(tokens)
        return chunks

    def sizes(self, decoding: int) -> list[int]:
        """The prefill budgets that a step may have beside so many decoding tokens: those that fill a bucket."""
        buckets = self._buckets
        if not buckets.is_ragged:
            return list(buckets.chunks)
        return [n - decoding for n in buckets.ragged_sizes if n - decoding >= MIN_PREFILL]

    def choose(
        self, steps: Mapping[int, Sequence[PassShape]], decode_only: Sequence[PassShape], prompt_tokens: int
    ) -> int:
        """The budget with most prompt tokens per second, of those within the latency limit; at least the smallest.

        Args:
            steps: the shapes of a step's forward passes with each budget.
            decode_only: those of a step without prefill; none where no sequence decodes.
            prompt_tokens: how many there are to compute.

        Returns:
            A key of `steps`. While no time is known, the least that holds all tokens, so that little is compiled.
        """
        if decode_only:
            limit = LATENCY_LIMIT * self._time(decode_only)
            within = {n: shapes for n, shapes in steps.items() if self._time(shapes) <= limit}
            steps = within or {min(steps): steps[min(steps)]}
        best = max(steps, key=lambda n: min(n, prompt_tokens) / self._time(steps[n]))
        if self._time(steps[best]) < float("inf"):
            return best
        return min((n for n in steps if n >= prompt_tokens), default=max(steps))

    def _prefill_budget(self, decoding: Sequence[Chunk], prefilling: Sequence[SequenceState]) -> int:
        def shapes(prefill: Sequence[Chunk]) -> list[PassShape]:
            return [forward_pass.shape for forward_pass in plan_step(self._buckets, decoding, prefill)]

        slot, start = prefilling[0].slot, prefilling[0].cached  # a chunk of any other prompt costs about the same
        sizes = self.sizes(sum(len(chunk.tokens) for chunk in decoding))
        steps = {n: shapes([Chunk(slot, start, range(n))]) for n in sizes}
        return self.choose(steps, shapes([]), sum(len(s.tokens) - s.cached for s in prefilling))

    def _time(self, shapes: Sequence[PassShape]) -> float:
        return sum(self._seconds.get(shape) or self._predicted(shape) for shape in shapes)

    def _predicted(self, shape: PassShape) -> float:
        """The seconds of a pass that was never measured, by those of other numbers of tokens; inf where there are none.

        Time grows as a straight line over tokens: first weights have to be read, then there is more to compute. One
        measurement counts half as the one and half as the other.
        """
        known = sorted((other.tokens, seconds) for other, seconds in self._seconds.items())
        if not known:
            return float("inf")
        n = shape.tokens
        above = next((i for i, (tokens, _) in enumerate(known) if tokens >= n), len(known) - 1)
        (low, low_seconds), (high, high_seconds) = known[max(above - 1, 0)], known[max(above, min(1, len(known) - 1))]
        if low == high:
            return low_seconds * (1 + n / low) / 2
        slope = max(0.0, (high_seconds - low_seconds) / (high - low))
        return max(high_seconds + slope * (n - high), min(low_seconds, high_seconds) / 2)
