"""Equal shares among tenants of what running requests have: batch slots, and the prompt tokens of a step."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_jax.inference.engine.scheduler import SequenceState


class Shares:
    """Every tenant that runs or waits may have as many slots as any other; what one leaves is for all."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._steps = itertools.count(1)
        self._prefilled: dict[str, int] = {}  # for each tenant, the last step in which its prompts went first

    def next(self, waiting: Sequence[SequenceState], running: Sequence[SequenceState]) -> SequenceState:
        """Who gets a free slot: the first in turn, or of a tenant with less than its share, not of worse priority."""
        first = waiting[0]
        return self._below(waiting, running, first.request.priority) or first

    def excess(self, waiting: Sequence[SequenceState], running: Sequence[SequenceState]) -> SequenceState | None:
        """Who must give its slot back, where none is free: the last in turn of the tenant that has most of them.

        None where no tenant with less than its share waits, or none has more, or its priority is better.
        """
        newcomer = self._below(waiting, running, None)
        if newcomer is None:
            return None
        counts = Counter(sequence.request.tenant for sequence in running)
        [(tenant, count)] = counts.most_common(1)
        last = next(sequence for sequence in reversed(running) if sequence.request.tenant == tenant)
        is_better = last.request.priority < newcomer.request.priority
        return None if is_better or count <= self._share(waiting, running) else last

    def in_order(self, prompts: Iterable[SequenceState]) -> list[SequenceState]:
        """The order of prompts in the next step, given that of their turns: the first of each tenant, then the seconds.

        Of the first ones that goes first whose tenant has not for longest.
        """
        by_tenant: defaultdict[str, list[SequenceState]] = defaultdict(list)
        for sequence in prompts:
            by_tenant[sequence.request.tenant].append(sequence)
        if len(by_tenant) < 2:
            return next(iter(by_tenant.values()), [])
        tenants = sorted(by_tenant, key=lambda tenant: self._prefilled.get(tenant, 0))
        self._prefilled = {tenant: step for tenant, step in self._prefilled.items() if tenant in by_tenant}
        self._prefilled[tenants[0]] = next(self._steps)
        ranks = itertools.zip_longest(*(by_tenant[tenant] for tenant in tenants))
        return [sequence for rank in ranks for sequence in rank if sequence is not None]

    def light(self, running: Iterable[SequenceState]) -> set[str]:
        """The tenants that have fewer running requests than tenants have on average."""
        counts = Counter(sequence.request.tenant for sequence in running)
        return {tenant for tenant, count in counts.items() if count * len(counts) < counts.total()}

    def _below(
        self, waiting: Sequence[SequenceState], running: Sequence[SequenceState], priority: int | None
    ) -> SequenceState | None:
        """The first in turn of a tenant with less than its share; of this priority at least."""
        share = self._share(waiting, running)
        if share == self._slots:
            return None
        counts = Counter(sequence.request.tenant for sequence in running)
        return next(
            (
                sequence
                for sequence in waiting
                if counts[sequence.request.tenant] < share
                and (priority is None or sequence.request.priority <= priority)
            ),
            None,
        )

    def _share(self, waiting: Sequence[SequenceState], running: Sequence[SequenceState]) -> int:
        tenants = {sequence.request.tenant for sequence in itertools.chain(waiting, running)}
        return max(1, self._slots // max(len(tenants), 1))


def by_waiting(streams: Iterable[SequenceState]) -> list[SequenceState]:
    """The order in which streams get their next token: the one of each tenant that waited longest, then the seconds."""
    ranks: Counter[str] = Counter()
    keys: dict[SequenceState, tuple[int, int]] = {}
    for stream in sorted(streams, key=lambda stream: stream.decoded_in):
        keys[stream] = ranks[stream.request.tenant], stream.decoded_in
        ranks[stream.request.tenant] += 1
    return sorted(keys, key=keys.__getitem__)
