"""Whole runs: what they learn, what they leave behind, how they end."""

import json
from pathlib import Path

import numpy as np
import pytest

from llm_jax.checkpoint import load_model
from llm_jax.errors import CheckpointError, ConfigError, DataError, TrainingError
from llm_jax.model import param_shapes
from llm_jax.training import load_train_config, train
from llm_jax.training.metrics import read_metrics
from llm_jax.training.tasks import LanguageModelTask, load_mlp


def epochs_of(result):
    return [record for record in read_metrics(result.run.metrics) if record["event"] == "epoch"]


def test_a_language_run_leaves_a_directory_that_describes_itself(config, flags):
    result = train("lm", config("data.tokenizer_type=bpe", "data.vocab_size=270"))
    run = result.run
    assert result.progress.step == result.total_steps > 0
    assert result.progress.best.best < 0.6 * result.baseline
    for directory in (run.path, run.best, run.last):
        loaded = load_model(directory)
        assert {name: v.shape for name, v in loaded.model.params.items()} == {
            name: v.shape for name, v in param_shapes(loaded.model.config).items()
        }
        assert loaded.tokenizer.vocab_size == loaded.model.config.vocab_size <= 270
        assert loaded.tokenizer.decode(loaded.tokenizer.encode("The cat saw a ball.")) == "The cat saw a ball."
    assert run.plot.read_bytes().startswith(b"\x89PNG")
    assert list((run.path.parent / "logs").glob("events.out.tfevents*"))
    assert load_train_config(run.config, environ={}) == config("data.tokenizer_type=bpe", "data.vocab_size=270")
    losses = [record["validation_loss"] for record in epochs_of(result)]
    assert len(losses) == 3
    assert losses[-1] == result.progress.last_loss


def test_regression_learns_the_line(config):
    result = train("regression", config("training.num_samples=2000", "training.epochs=5", "training.batch_size=32"))
    assert 0.008 < result.progress.best.best < 0.013, "the noise leaves 0.01"
    model, params = load_mlp(result.run.best)
    x = np.linspace(-1, 1, 9, dtype=np.float32)[:, None]
    np.testing.assert_allclose(model(params, x, np.dtype("float32")), x, atol=0.1)


def test_a_mixture_of_experts_trains(config):
    result = train("lm", config("model.use_moe=true", "model.num_experts=4", "model.top_k=2"))
    assert result.progress.best.best < 0.7 * result.baseline
    assert load_model(result.run.best).model.config.num_experts == 4


def test_early_stopping_ends_the_run_and_a_resumed_one_stays_ended(config):
    settings = ["training.early_stopping_patience=2", "training.early_stopping_min_delta=100", "training.epochs=50"]
    result = train("lm", config(*settings))
    assert len(epochs_of(result)) == 3, "one that improves on nothing, then two that do not improve enough"
    again = train("lm", config(*settings, "checkpoint.resume_from_checkpoint=auto"))
    assert again.progress == result.progress


def test_plateau_lowers_the_learning_rate(config):
    settings = ["training.scheduler_type=plateau", "training.plateau_patience=0"]
    result = train("lm", config(*settings, "training.lr=3", "training.epochs=6"))
    rates = [record["lr"] for record in read_metrics(result.run.metrics) if record["event"] == "step"]
    assert result.progress.lr_factor < 1
    assert rates[-1] < max(rates)


def test_without_validation_nothing_is_held_out(config):
    result = train("lm", config("training.run_validation=false", "training.epochs=1"))
    assert epochs_of(result)[0]["validation_loss"] is None
    assert not result.run.best.exists()
    assert load_model(result.run.path).path == result.run.last


def test_a_diverging_run_says_so_and_keeps_the_last_good_state(config):
    with pytest.raises(TrainingError, match=r"became (nan|inf) at step \d+.*training.lr"):
        train("regression", config("training.lr=1e30", "training.num_samples=500", "training.gradient_clip_val=null"))


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (["model.vocab_size=5"], ConfigError, r"model.vocab_size is 5, but the tokenizer has \d+ ids"),
        (["data.dataset_path=null"], ConfigError, "data.dataset_path is not set"),
        (["data.dataset_path=/nowhere.txt"], DataError, "/nowhere.txt: there is no such file"),
        (["model.max_seq_len=9000"], DataError, r"\d+ tokens, fewer than .*= 9001"),
        (["distributed.mesh={data: 4}"], ConfigError, "The model is to be spread over 4 devices, but JAX finds 1 here"),
        (
            ["distributed.mesh={fsdp: 3}"],
            ConfigError,
            r"training.batch_size is 8; .* \(1 x 3\) must divide",
        ),
        (["checkpoint.resume_from_checkpoint=/nowhere"], CheckpointError, "/nowhere: no saved run to resume"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(config, settings, error, says):
    wrong = config(*settings)
    with pytest.raises(error, match=says):
        train("lm", wrong)
    assert not Path(wrong.checkpoint.checkpoint_dir).exists()


def test_a_given_vocabulary_may_be_larger(config):
    task = LanguageModelTask.build(config("model.vocab_size=100"))
    assert task.tokenizer.vocab_size < task.config.vocab_size == 100


def test_a_run_is_not_resumed_as_another(config):
    train("lm", config("training.epochs=1"))
    resume = "checkpoint.resume_from_checkpoint=auto"
    with pytest.raises(ConfigError, match=r"model.hidden_size was 16 in the run in .*, and is 32 now"):
        train("lm", config(resume, "model.hidden_size=32"))
    with pytest.raises(ConfigError, match=r"training.batch_size was 8 in the run in .*, and is 4 now"):
        train("lm", config(resume, "training.batch_size=4"))


def test_half_written_metrics_are_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + '\n{"step": ', encoding="utf-8")
    assert list(read_metrics(path)) == [{"step": 1}]


def test_without_compiling_the_same_is_learnt(config):
    settings = ["training.epochs=1", "training.num_samples=40", "training.batch_size=8"]
    compiled = train("regression", config(*settings))
    plain = train("regression", config(*settings, "optimization.use_compile=false", directory="plain"))
    assert plain.progress.last_loss == pytest.approx(compiled.progress.last_loss, rel=1e-4)
