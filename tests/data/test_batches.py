"""A batch depends on the seed and the step number alone."""

import numpy as np
import pytest

from llm_jax.data import Batches, Mixture, NoisyLine


class Numbers:
    fingerprint, offset = "numbers", 0

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"inputs": np.array([self.offset + index + 1], np.int32), "weights": np.ones((), np.float32)}


def order(batches, start, stop):
    return [batch["inputs"][:, 0].tolist() for batch in batches.steps(start, stop)]


def flat(rows):
    return [value for row in rows for value in row]


@pytest.mark.parametrize("workers", [0, 3])
def test_starting_anywhere_gives_the_same_batches(workers):
    batches = Batches(source=Numbers(10), size=4, seed=7, workers=workers)
    whole = order(batches, 0, 9)
    for start in (1, 3, 5, 8):
        assert order(batches, start, 9) == whole[start:]


def test_an_epoch_visits_everything_once_each_in_its_own_order():
    batches = Batches(source=Numbers(10), size=4, seed=7)
    assert batches.per_epoch == 3
    epochs = [flat(order(batches, 3 * e, 3 * e + 3)) for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch) == [0, 0, *range(1, 11)], "two rows of padding fill the last batch"
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_padding_rows_weigh_nothing():
    last = next(Batches(source=Numbers(10), size=4).steps(2, 3))
    assert last["weights"].tolist() == [1, 1, 0, 0]


def test_the_seed_decides():
    first, again, other = (Batches(source=Numbers(50), size=50, seed=s) for s in (1, 1, 2))
    assert order(first, 0, 1) == order(again, 0, 1) != order(other, 0, 1)


def test_no_epoch_of_a_seed_is_one_of_its_neighbours():
    """Nor of another source of the same size in a mixture."""
    by_seed = [[order(Batches(source=Numbers(50), size=50, seed=s), e, e + 1) for e in range(3)] for s in (-1, 0, 1)]
    mixture = Batches(source=Mixture([Numbers(50), Numbers(50)], [1.0, 1.0]), size=100, seed=0)
    mixture.source.sources[1].offset = 100
    drawn = flat(order(mixture, 0, 3))
    sources = [[value for value in drawn if value <= 50], [value - 100 for value in drawn if value > 100]]
    by_source = [[values[i : i + 50] for i in range(0, 150, 50)] for values in sources]
    for orders in (by_seed, by_source):
        every = [str(epoch) for epochs in orders for epoch in epochs]
        assert len(set(every)) == len(every)


def test_without_a_seed_the_order_is_the_source():
    assert flat(order(Batches(source=Numbers(6), size=3), 0, 2)) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("workers", [0, 3])
def test_a_mixture_has_its_proportions_from_any_step_on(workers):
    """Whatever the sizes: 10 examples are drawn three times as often as 40 others, again and again."""
    mixture = Mixture([Numbers(10), Numbers(40)], [3.0, 1.0])
    mixture.sources[1].offset = 100
    batches = Batches(source=mixture, size=8, seed=7, workers=workers)
    assert (len(mixture), batches.per_epoch) == (50, 7)
    whole = order(batches, 0, 20)
    few = [value for value in flat(whole) if value <= 10]
    many = [value for value in flat(whole) if value > 100]
    assert (len(few), len(many)) == (120, 40)
    assert sorted(many) == list(range(101, 141)), "each once before one comes again"
    assert all(sorted(few[i : i + 10]) == list(range(1, 11)) for i in range(0, 120, 10))
    assert few[:10] != few[10:20], "in an order of its own each time"
    for start in (1, 6, 7, 13):
        assert order(batches, start, 20) == whole[start:]
    assert [mixture[i]["inputs"][0] for i in (0, 9, 10, 49)] == [1, 10, 101, 140]


def test_the_noisy_line_has_the_documented_noise():
    samples = NoisyLine.sample(20000, seed=3)
    noise = samples.y - samples.x
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    assert abs(np.corrcoef(samples.x, noise)[0, 1]) < 0.03
    assert (NoisyLine.sample(10, seed=3).x == NoisyLine.sample(10, seed=3).x).all()
