"""Learning rates at the steps where they can be told by hand."""

import math

import pytest

from llm_jax.errors import ConfigError
from llm_jax.training import CheckpointConfig, TrainingConfig
from llm_jax.training.progress import Progress
from llm_jax.training.schedules import BestLoss, Timetable, learning_rate


def rate(step, **settings):
    config = TrainingConfig(lr=1.0, **settings)
    times = Timetable.of(config, CheckpointConfig(), per_epoch=10, tokens_per_step=100)
    return learning_rate(config, step, times)


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


def test_linear_constant_and_wsd():
    settings = {"epochs": 10, "warmup_epochs": 0, "min_lr": 0.2}
    assert [rate(step, scheduler_type="linear", **settings) for step in (0, 50, 100)] == pytest.approx([1.0, 0.6, 0.2])
    assert [rate(step, scheduler_type="constant", **settings) for step in (0, 50, 100)] == [1.0, 1.0, 1.0]
    wsd = [rate(step, scheduler_type="wsd", cooldown=0.4, **settings) for step in (0, 60, 70, 100)]
    assert wsd == pytest.approx([1.0, 1.0, 0.2 + 0.8 * 0.5, 0.2])


def test_lengths_in_steps_tokens_and_epochs():
    def times(per_epoch=10, tokens=100, save=None, **settings):
        checkpoint = CheckpointConfig(save_every=save)
        return Timetable.of(TrainingConfig(**settings), checkpoint, per_epoch=per_epoch, tokens_per_step=tokens)

    assert times(length="25 steps", warmup="5 steps") == Timetable(10, 25, 5, 10, 10)
    assert times(length="0.02M tokens", warmup="1.5k tokens") == Timetable(10, 200, 15, 10, 10)
    assert times(length="2.5 epochs", warmup="1 epoch", evaluate_every="4 steps", save="500 tokens") == Timetable(
        10, 25, 10, 4, 5
    )
    assert times(epochs=3, warmup_epochs=0.5) == Timetable(10, 30, 5, 10, 10)
    for text in ("5", "5 minutes", "0 steps", "-1 steps", "many steps"):
        with pytest.raises(ConfigError, match=f"length is {text!r}; it must be a number with its unit"):
            TrainingConfig(length=text)


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
        progress = progress.measured(config, loss)
        times = Timetable.of(config, CheckpointConfig(), per_epoch=10, tokens_per_step=1)
        ours = learning_rate(config, 50, times, progress.lr_factor)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"]), loss


def test_early_stopping_counts_epochs_without_enough_improvement():
    config = TrainingConfig(early_stopping_patience=2, early_stopping_min_delta=0.1)
    progress, stopped = Progress(), []
    for loss in [2.0, 1.8, 1.75, 1.6, 1.55, 1.52]:
        progress = progress.measured(config, loss)
        stopped.append(progress.stops_early(config))
    assert stopped == [False, False, False, False, False, True]
    assert progress.best.best == 1.52, "best needs no margin"


def test_progress_survives_json():
    import json

    progress = Progress(step=3, epoch_loss=0.1 + 0.2, epoch_weight=7.0, last_loss=None, patience=BestLoss(1 / 3, 2))
    assert Progress.from_dict(json.loads(json.dumps(progress.to_dict()))) == progress
