"""Training that begins with a model: whole, in part, or with an adapter beside it; and what a run says of itself."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.checkpoint import load_model, read_adapter, save_model
from llm_jax.errors import CheckpointError, ConfigError
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer
from llm_jax.training import Setting, load_train_config, train
from llm_jax.training.tasks import LanguageModelTask
from tests.compiled import forward

ALPHABET = ["abcdefghijklmnopqrstuvwxyzTACW .\n"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A tiny model with a tokenizer, saved as Llama's."""
    from llm_jax.config import ModelConfig

    tokenizer = CharacterTokenizer(ALPHABET)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=16, positions="rotary",
        norm="rms_norm", use_glu=True, activation="silu", qkv_bias=False, mlp_bias=False, lm_head_bias=False,
        embedding_scale=1.0, dropout=0.0,
    )  # fmt: skip
    directory = tmp_path_factory.mktemp("base") / "model"
    save_model(directory, Model.init(config, seed=5), tokenizer)
    return directory


@pytest.fixture
def from_base(base, corpus, tmp_path):
    """A configuration that starts from `base`."""

    def build(*more: str) -> Any:
        settings = [
            *(
                f"model.init_from={base}",
                f"data.dataset_path={corpus}",
                f"checkpoint.checkpoint_dir={tmp_path / 'run'}",
            ),
            *("training.batch_size=8", "training.epochs=1", "training.lr=0.01", "logging.log_interval=1"),
            *("optimization.num_workers=1", "training.warmup_epochs=0", *more),
        ]
        return load_train_config(environ={}, overrides=[Setting.parse(flag, "test") for flag in settings])

    return build


def test_a_run_begins_with_the_model_its_tokenizer_and_its_architecture(base, from_base):
    task = LanguageModelTask.build(from_base("model.dropout=0.25"))
    loaded = load_model(base)
    assert task.config == dataclasses.replace(loaded.model.config, dropout=0.25)
    assert task.tokenizer.encode("The cat") == loaded.tokenizer.encode("The cat")
    initial = task.init_trainable(seed=9)
    assert all((initial[name] == value).all() for name, value in loaded.model.params.items())
    result = train("lm", from_base())
    first = next(record for record in _steps(result) if record["step"] == 1)
    assert first["loss"] == pytest.approx(_loss(loaded.model, task.train[0]), rel=0.2), "not that of a model before"
    assert result.progress.best.best < 0.8 * first["loss"]
    assert load_model(result.run.best).model.config == loaded.model.config


def test_what_contradicts_the_model_is_refused(from_base, base, tmp_path):
    for setting, says in (
        ("model.hidden_size=32", "model.hidden_size is 32, but the model in .* has 16"),
        ("model.vocab_size=7", "model.vocab_size is 7, but the tokenizer has"),
        ("data.max_seq_len=99", "data.max_seq_len is 99, but model.max_seq_len is 16"),
        ("training.freeze=[attention]", "'attention', which no parameter's name has"),
        ("lora.targets=[q_pro]", "Did you mean q_proj"),
    ):
        with pytest.raises(ConfigError, match=says):
            LanguageModelTask.build(from_base("lora.rank=2" if "lora" in setting else "lora.rank=0", setting))
    with pytest.raises(CheckpointError, match="nowhere"):
        LanguageModelTask.build(from_base("model.init_from=./nowhere"))
    with pytest.raises(ConfigError, match="an adapter needs a model beside it"):
        LanguageModelTask.build(from_base("model.init_from=null", "lora.rank=2"))


def test_the_same_model_may_be_given_by_its_own_sizes(from_base):
    assert LanguageModelTask.build(from_base("model.hidden_size=16")).config.hidden_size == 16


@pytest.mark.parametrize("tied", [False, True])
def test_a_larger_tokenizer_grows_the_vocabulary(base, from_base, tmp_path, tied):
    model = load_model(base).model
    config = dataclasses.replace(model.config, tie_embeddings=tied)
    own = {name: value for name, value in model.params.items() if not (tied and name.startswith("lm_head"))}
    save_model(tmp_path / "model", Model(config, own), CharacterTokenizer(ALPHABET))
    CharacterTokenizer([*ALPHABET, "0123456789!?"]).save_pretrained(tmp_path / "tokenizer")
    task = LanguageModelTask.build(
        from_base(
            f"model.init_from={tmp_path / 'model'}",
            f"data.tokenizer_path={tmp_path / 'tokenizer'}",
            "model.vocab_multiple=16",
        )
    )
    ids = task.tokenizer.vocab_size
    assert config.vocab_size < ids <= task.config.vocab_size == -(-ids // 16) * 16
    params = task.init_trainable(0)
    table, old = params["embedding_layer.token_embeddings.weight"], own["embedding_layer.token_embeddings.weight"]
    np.testing.assert_array_equal(table[: len(old)], old)
    np.testing.assert_allclose(table[-1], old.mean(0), atol=1e-6)
    assert ("lm_head.weight" in params) is not tied
    logits = forward(task.config, params, jnp.array([[1, 2, 3]]))
    assert logits.shape[-1] == task.config.vocab_size
    np.testing.assert_allclose(
        logits[..., : config.vocab_size], forward(config, own, jnp.array([[1, 2, 3]])), atol=1e-6
    )


def test_lora_trains_its_factors_alone_and_its_run_is_an_adapter_and_a_model(base, from_base):
    settings = ["lora.rank=4", "lora.targets=[q_proj, v_proj, down_proj]", "training.epochs=2"]
    result = train("lm", from_base(*settings))
    model = load_model(base).model
    loaded = read_adapter(result.run.best, model.config)
    assert {module.name.split(".")[-1] for module in loaded.adapter.modules} == {"q_proj", "v_proj", "down_proj"}
    assert loaded.base == str(base)
    trained = sum(value.size for value in loaded.params.values())
    record = next(record for record in _records(result) if record["event"] == "run")
    assert (record["trainable"], record["parameters"]) == (trained, trained + _size(model))
    first = next(_steps(result))["loss"]
    assert result.progress.best.best < first
    merged = load_model(result.run.path)
    assert merged.tokenizer.encode("The cat") == CharacterTokenizer(ALPHABET).encode("The cat")
    changed = {name for name, value in merged.model.params.items() if (value != model.params[name]).any()}
    assert {name.split(".")[-2] for name in changed} == {"qkv_proj", "fc2"}
    again = train("lm", from_base(*settings, "checkpoint.resume_from_checkpoint=auto"))
    assert again.progress == result.progress


# ---- what a run says ----


def test_samples_are_written_at_every_evaluation_with_the_adapter_merged(base, from_base):
    """And the run's folder says which versions it was made with."""
    said = []

    def writer(model, tokenizer, prompt, answers, tokens):
        said.append(model.params["transformer_blocks.0.self_attn.qkv_proj.weight"])
        return f"{tokenizer.encode(prompt)} {answers} {tokens}"

    settings = [
        "lora.rank=2",
        "lora.targets=[q_proj]",
        "logging.sample_prompts=[The cat, Anna]",
        "training.length=3 steps",
    ]
    config = from_base(*settings, "training.evaluate_every=2 steps", "logging.sample_tokens=7")
    result = train("lm", config, writer=writer)
    samples = [record for record in _records(result) if record["event"] == "sample"]
    assert [(record["step"], record["prompt"]) for record in samples] == [
        (step, prompt) for step in (2, 3) for prompt in ("The cat", "Anna")
    ]
    assert samples[0]["text"] == f"{CharacterTokenizer(ALPHABET).encode('The cat')} False 7"
    written = load_model(result.run.last).model.params["transformer_blocks.0.self_attn.qkv_proj.weight"]
    np.testing.assert_allclose(said[-1], written, atol=1e-6)
    assert json.loads(result.run.versions.read_text())["jax"]


def test_resume_without_a_saved_run_starts_anew_and_says_so(config, capsys):
    settings = ["checkpoint.resume_from_checkpoint=auto", "training.epochs=1", "training.num_samples=50"]
    result = train("regression", config(*settings))
    assert result.progress.step > 0
    said = capsys.readouterr().out
    assert f"There is no saved run in {result.run.path} to resume: starting anew." in " ".join(said.split("\n"))


def test_logs_are_inside_the_run_unless_they_are_set(config, tmp_path):
    settings = ["training.epochs=1", "training.num_samples=50"]
    inside = train("regression", config(*settings, "logging.log_dir=logs")).run.path
    assert list((inside / "logs").glob("events.out.tfevents*"))
    train("regression", config(*settings, f"logging.log_dir={tmp_path / 'elsewhere'}", directory="other"))
    assert list((tmp_path / "elsewhere").glob("events.out.tfevents*"))
    assert not (tmp_path / "other" / "logs").exists()


def test_the_home_directory_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text(
        "checkpoint: {checkpoint_dir: ~/runs/x}\nmodel: {init_from: ~/m}\ndata: {dataset_path: ~/a.txt}\n"
        "logging: {log_dir: ~/logs}\n"
    )
    flags = [Setting.parse("data.val_dataset_path=~/b.txt", "--set")]
    config = load_train_config(tmp_path / "run.yaml", environ={}, overrides=flags)
    assert config.checkpoint.checkpoint_dir == str(tmp_path / "runs/x")
    assert config.model.init_from == str(tmp_path / "m")
    assert (config.data.dataset_path, config.data.val_dataset_path) == (f"{tmp_path}/a.txt", f"{tmp_path}/b.txt")
    assert config.log_dir == tmp_path / "logs"


@pytest.mark.parametrize(
    ("setting", "says", "not_said"),
    [
        ("training.optimiser=muon", "Did you mean training.optimizer", "It has"),
        ("model.pretrained=x", "section model has no field 'pretrained'. It has ", "Did you mean"),
        ("trainer.lr=1", "no section 'trainer'. Did you mean 'training'", "It has"),
        ("wandb.project=x", "no section 'wandb'. The sections are", "Did you mean"),
    ],
)
def test_a_name_is_suggested_only_where_one_is_near(setting, says, not_said):
    with pytest.raises(ConfigError) as error:
        load_train_config(environ={}, overrides=[Setting.parse(setting, "--set")])
    assert says in str(error.value)
    assert not_said not in str(error.value)


def _records(result):
    from llm_jax.training.metrics import read_metrics

    return read_metrics(result.run.metrics)


def _steps(result):
    return (record for record in _records(result) if record["event"] == "step")


def _size(model):
    return sum(value.size for value in model.params.values())


def _loss(model, example):
    logits = forward(model.config, model.params, jnp.asarray(example["inputs"])[None])[0]
    logp = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    return -float(jnp.take_along_axis(logp, jnp.asarray(example["targets"])[:, None], -1).mean())
