"""The token budget of a step: how many prompt tokens it computes beside the sequences that decode.

Prompts are prefilled in chunks so that running streams go on meanwhile (arXiv:2308.16369). A larger chunk is faster for
the prompt and delays each stream's next token: the budget is what computes most prompt tokens per second, within a
limit on inter-token latency. Where more than QUEUE requests wait for their first token, the limit is as many times
higher, so that slots fill under load.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from llm_jax.inference.engine.scheduler import SequenceState
from llm_jax.inference.engine.step_plan import MIN_PREFILL, Buckets, Chunk, ForwardPass, PassShape, plan_step

LATENCY_LIMIT = 1.7  # times a decode-only step; with noise and rounding, a stream's longest gap stays under three times
QUEUE = 4  # requests
_WEIGHT_FASTER, _WEIGHT_SLOWER = 0.5, 0.2  # of a new measurement in the average: most slow ones are noise
_OUTLIER_CAP = 2.0  # times the average: a slower measurement counts as this


class PassKind(NamedTuple):
    """What a forward pass takes time for, beside attention.

    Attributes:
        sampled: behind the tokens of how many sequences one is sampled, in the sampling program's size: behind a prompt
            it is one, behind as many tokens that decode all of them.
    """

    shape: PassShape
    sampled: int


class TokenBudget:
    """Chooses prefill chunks by the seconds of forward passes, measured or predicted.

    A pass takes some time that depends on its kind, and some for each pair of tokens that attention is computed over:
    behind 4,000 tokens a chunk takes twice as long as at the beginning. The former is a moving average per kind, the
    latter the slope of a regression over all passes, in deviations from the averages of their kinds.
    """

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self._averages: dict[PassKind, tuple[float, float]] = {}  # seconds, and pairs
        self._covariance = self._variance = 0.0  # of the pairs with the seconds, and with themselves

    def kind(self, forward_pass: ForwardPass) -> PassKind:
        shape = self._buckets.compiled(forward_pass.shape)
        return PassKind(shape, self._buckets.sampled(shape, forward_pass.sampled))

    def record(self, kind: PassKind, seconds: float, pairs: float = 0) -> None:
        """Adds a measurement of a forward pass of this kind, over so many pairs of tokens."""
        if kind not in self._averages:
            self._averages[kind] = seconds, pairs
            return
        expected = self._time([kind], pairs)
        seconds = min(seconds, _OUTLIER_CAP * expected)
        average, average_pairs = self._averages[kind]
        change, change_pairs = seconds - average, pairs - average_pairs
        self._covariance += change * change_pairs
        self._variance += change_pairs**2
        weight = _WEIGHT_FASTER if seconds < expected else _WEIGHT_SLOWER
        self._averages[kind] = average + weight * change, average_pairs + weight * change_pairs

    def prefill_chunks(
        self,
        decoding: Sequence[Chunk],
        prefilling: Sequence[SequenceState],
        *,
        queued: int,
        longest: float = math.inf,
    ) -> dict[SequenceState, Chunk]:
        """The chunk of each prompt in this step. The budget goes to the oldest prompt first; chunks may be empty.

        Args:
            decoding: the chunks beside which they are computed.
            prefilling: oldest first.
            queued: requests that wait for a slot.
            longest: seconds that the step should take at most.
        """
        if not prefilling:
            return {}
        budget = self._prefill_budget(decoding, prefilling, queued, longest)
        chunks = {}
        for sequence in prefilling:
            tokens = sequence.tokens[sequence.cached : sequence.cached + budget]
            is_last = sequence.cached + len(tokens) == len(sequence.tokens)
            is_sampled = is_last and not sequence.request.is_embedding
            chunks[sequence] = Chunk(sequence.slot, sequence.cached, tokens, is_sampled=is_sampled)
            budget -= len(tokens)
        return chunks

    def seconds(self, passes: Sequence[ForwardPass]) -> float:
        """What these passes will probably take; inf while nothing is known."""
        return self._time(map(self.kind, passes), sum(each.pairs for each in passes))

    def sizes(self, decoding: int) -> list[int]:
        """The prefill budgets that a step may have beside so many decoding tokens: those that fill a bucket."""
        buckets = self._buckets
        if not buckets.is_ragged:
            return list(buckets.chunks)
        return [n - decoding for n in buckets.ragged_sizes if n - decoding >= MIN_PREFILL]

    def choose(
        self,
        steps: Mapping[int, Sequence[PassKind]],
        decode_only: Sequence[PassKind],
        prompt_tokens: int,
        *,
        decode_pairs: float = 0,
        context: int = 0,
        waiting: int = 1,
        longest: float = math.inf,
    ) -> int:
        """The budget with most prompt tokens per second, of those within the latency limit; at least the smallest.

        Args:
            steps: the kinds of a step's forward passes with each budget; a smaller budget has the same.
            decode_only: those of a step without prefill; none where no sequence decodes.
            prompt_tokens: how many there are to compute.
            decode_pairs: pairs of tokens that the attention of what decodes is computed over.
            context: tokens before each prompt token.
            waiting: requests that wait for their first token.
            longest: seconds that the step should take at most.

        Returns:
            At most the largest key of `steps`. While no time is known, the least that all tokens fit, so that little is
            compiled.
        """
        seconds = {size: self._time(kinds, decode_pairs) for size, kinds in steps.items()}
        if math.inf in seconds.values():
            return min((n for n in steps if n >= prompt_tokens), default=max(steps))
        per_token = self._slope * context
        limit = LATENCY_LIMIT * self._time(decode_only, decode_pairs) if decode_only else math.inf
        limit = min(limit * max(1, waiting / QUEUE), longest)

        def fitting(size: int, limit: float) -> int:
            """How many of the tokens that a shape holds are within a limit."""
            return size if per_token == 0 or limit == math.inf else min(size, int((limit - seconds[size]) / per_token))

        def rate(size: int) -> float:
            tokens = min(budgets[size], prompt_tokens)
            return tokens / (seconds[size] + tokens * per_token)

        budgets = {size: fitting(size, limit) for size in steps if seconds[size] <= limit}
        budgets = {size: budget for size, budget in budgets.items() if budget >= MIN_PREFILL}
        if not budgets:  # prefill must go on, so that attention does not make it much slower
            size = min(steps)
            return max(min(MIN_PREFILL, size), fitting(size, LATENCY_LIMIT * seconds[size]))
        return budgets[max(budgets, key=rate)]

    def _prefill_budget(
        self, decoding: Sequence[Chunk], prefilling: Sequence[SequenceState], queued: int, longest: float
    ) -> int:
        def kinds(prefill: Sequence[Chunk]) -> list[PassKind]:
            return [*map(self.kind, plan_step(self._buckets, decoding, prefill))]

        slot, start = prefilling[0].slot, prefilling[0].cached  # a chunk of any other prompt costs about the same
        sizes = self.sizes(sum(len(chunk.tokens) for chunk in decoding))
        return self.choose(
            {n: kinds([Chunk(slot, start, range(n))]) for n in sizes},
            kinds([]),
            sum(len(s.tokens) - s.cached for s in prefilling),
            decode_pairs=sum(len(chunk.tokens) * chunk.end for chunk in decoding),
            context=start,
            waiting=len(prefilling) + queued,
            longest=longest,
        )

    @property
    def _slope(self) -> float:
        """Seconds for each pair of tokens."""
        return max(0.0, self._covariance / self._variance) if self._variance else 0.0

    def _time(self, kinds: Iterable[PassKind], pairs: float) -> float:
        """The seconds of a step's passes, over so many pairs together; inf where nothing is known."""
        seconds = sum(map(self._seconds, kinds))
        return seconds + self._slope * pairs

    def _seconds(self, kind: PassKind) -> float:
        """The seconds that a pass takes without attention."""
        if kind not in self._averages:
            return self._predicted(kind)
        seconds, pairs = self._averages[kind]
        return max(seconds - self._slope * pairs, seconds / 4)

    def _predicted(self, kind: PassKind) -> float:
        """The seconds of a pass that was never measured, by those of other numbers of tokens; inf where there are none.

        Those with as many sampled tokens count, where there are any.

        Time grows as a straight line over tokens: first weights have to be read, then there is more to compute. One
        measurement counts half as the one and half as the other.
        """
        alike = [other for other in self._averages if other.sampled == kind.sampled] or [*self._averages]
        known = sorted((other.shape.tokens, self._seconds(other)) for other in alike)
        if not known:
            return math.inf
        n = kind.shape.tokens
        above = next((i for i, (tokens, _) in enumerate(known) if tokens >= n), len(known) - 1)
        (low, low_seconds), (high, high_seconds) = known[max(above - 1, 0)], known[max(above, min(1, len(known) - 1))]
        if low == high:
            return low_seconds * (1 + n / low) / 2
        slope = max(0.0, (high_seconds - low_seconds) / (high - low))
        return max(high_seconds + slope * (n - high), min(low_seconds, high_seconds) / 2)
