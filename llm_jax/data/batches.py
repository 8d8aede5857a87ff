"""Examples -> batches, in an order that depends on (seed, step) alone. The only place that imports grain."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_jax.data.mixture import Mixture
from llm_jax.data.types import Batch, Example, Source


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Batches of a source: step s of every run with the same seed is the same batch, whatever came before.

    The position of a run in its data is therefore one number. Each epoch visits every example once, in an order of
    its own; the last batch of an epoch is padded with zeros, whose weights of zero exclude them from the loss. Of a
    `Mixture` an epoch is as many batches, in which its sources have their proportions.

    Attributes:
        size: examples per batch.
        seed: of the shuffle; None keeps the order of the source.
        workers: threads that prepare batches ahead; 0 for none.
        prefetch: batches that each worker prepares ahead.
        rows: which of a batch's examples to make, by their position in it: the share of one process of several. None
            for all. A position at `size` or beyond is padding.
    """

    source: Source
    size: int
    seed: int | None = None
    workers: int = 0
    prefetch: int = 2
    rows: tuple[int, ...] | None = None

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.source) // self.size)

    def steps(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps start … stop - 1; steps count on through the epochs."""
        import grain

        mixed, count = isinstance(self.source, Mixture), len(self.source)
        if isinstance(self.source, Mixture):
            # No two sources of one size in one order: each has a seed of its own.
            sources = [
                self._shuffled(grain.MapDataset.source(source), number).repeat()
                for number, source in enumerate(self.source.sources)
            ]
            examples = grain.MapDataset.mix(sources, self.source.weights)
        else:
            examples = self._shuffled(grain.MapDataset.source(self.source))

        def example(step: int, row: int) -> Example | None:
            """None for padding: behind the batch, or behind the last example of an epoch."""
            epoch, index = divmod(step, self.per_epoch)
            place = index * self.size + row
            if row >= self.size or (place >= count and not mixed):
                return None
            return examples[step * self.size + row if mixed else epoch * count + place]

        rows = range(self.size) if self.rows is None else self.rows
        batches = grain.MapDataset.range(start, stop).map(
            lambda step: self._stack([example(step, row) for row in rows])
        )
        options = grain.ReadOptions(num_threads=self.workers, prefetch_buffer_size=self.workers * self.prefetch)
        return iter(batches.to_iter_dataset(options))

    def _shuffled(self, dataset: Any, number: int = 0) -> Any:
        """In another order in each epoch.

        Grain orders epoch e by seed + e: of neighbouring seeds, one run's first epoch would be another one's second.
        """
        if self.seed is None:
            return dataset
        (seed,) = np.random.SeedSequence((self.seed % 2**64, number)).generate_state(1)
        return dataset.shuffle(seed=int(seed))

    def _stack(self, examples: Sequence[Example | None]) -> Batch:
        shape = next((example for example in examples if example is not None), None) or self.source[0]
        batch = {name: np.zeros((len(examples), *value.shape), value.dtype) for name, value in shape.items()}
        for row, example in enumerate(examples):
            for name, value in (example or {}).items():
                batch[name][row] = value
        return batch
