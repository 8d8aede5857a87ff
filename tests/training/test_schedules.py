"""Learning rates at the steps where they can be told by hand."""

import math

import pytest

from llm_jax.training import TrainingConfig
from llm_jax.training.progress import Progress
from llm_jax.training.schedules import BestLoss, learning_rate


def rate(step, **settings):
    factor = settings.pop("plateau_factor", 1.0)
    return learning_rate(TrainingConfig(lr=1.0, **settings), step, steps_per_epoch=10, plateau_factor=factor)


def test_the_warm_up_is_linear_and_never_zero():
    assert [rate(step, epochs=10, warmup_epochs=1) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate(0, epochs=10, warmup_epochs=0) == 1.0
    assert rate(4, epochs=1, warmup_epochs=1) == 1.0, "at most half of the run"


def test_cosine_ends_at_the_floor():
    settings = {"epochs": 11, "warmup_epochs": 1, "min_lr": 0.1}
    assert rate(10, **settings) == 1.0
    assert rate(60, **settings) == pytest.approx(0.55)
    assert rate(110, **settings) == pytest.approx(0.1)
    assert rate(35, **settings) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)


def test_step_decays_every_step_epochs():
    settings = {
        "scheduler_type": "step",
        "epochs": 20,
        "warmup_epochs": 0,
        "step_epochs": 5,
        "lr_decay": 0.5,
        "min_lr": 0.2,
    }
    assert [rate(step, **settings) for step in (0, 49, 50, 100, 150)] == [1.0, 1.0, 0.5, 0.25, 0.2]


def test_plateau_is_torch_s_reduce_on_plateau():
    torch = pytest.importorskip("torch")
    config = TrainingConfig(lr=1.0, scheduler_type="plateau", warmup_epochs=0, plateau_patience=2, lr_decay=0.5)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    progress = Progress()
    for loss in [3.0, 2.0, 2.0, 1.99995, 2.1, 2.2, 1.5, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6]:
        theirs.step(loss)
        progress = progress.epoch_done(config, loss)
        ours = learning_rate(config, 50, 10, progress.lr_factor)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"]), loss


def test_early_stopping_counts_epochs_without_enough_improvement():
    config = TrainingConfig(early_stopping_patience=2, early_stopping_min_delta=0.1)
    progress, stopped = Progress(), []
    for loss in [2.0, 1.8, 1.75, 1.6, 1.55, 1.52]:
        progress = progress.epoch_done(config, loss)
        stopped.append(progress.stops_early(config))
    assert stopped == [False, False, False, False, False, True]
    assert progress.best.best == 1.52, "best needs no margin"


def test_progress_survives_json():
    import json

    progress = Progress(step=3, epoch_loss=0.1 + 0.2, epoch_weight=7.0, last_loss=None, patience=BestLoss(1 / 3, 2))
    assert Progress.from_dict(json.loads(json.dumps(progress.to_dict()))) == progress
