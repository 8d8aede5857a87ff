"""Configuration is strict: what is not understood is refused, with its origin and the nearest thing that exists."""

import dataclasses

import pytest

from llm_jax.errors import ConfigError
from llm_jax.training import SECTIONS, Setting, TrainConfig, load_train_config, write_config


def load(text="", environ=None, flags=(), *, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_train_config(path, environ=environ or {}, overrides=[Setting.parse(flag, "--set") for flag in flags])


def test_documented_defaults(tmp_path):
    config = load(tmp_path=tmp_path)
    assert config == TrainConfig() == load_train_config(environ={})
    documented = """
        model: hidden_size 512, num_heads 8, num_layers 2, dropout 0.1, vocab_size 50257, max_seq_len 512
        training: batch_size 128, epochs 10, lr 1e-3, weight_decay 0.01, num_samples 20000, scheduler_type cosine
        training: warmup_epochs 1, gradient_clip_val 1.0, run_validation true
        optimization: amp_dtype auto, num_workers 4, prefetch_factor 2, gradient_accumulation_steps 1
        checkpoint: checkpoint_dir checkpoints, resume_from_checkpoint null, save_interval 1, keep_last_n 5
        checkpoint: save_best true
        logging: log_interval 10, log_dir logs
        distributed: num_nodes 1, node_rank 0
    """
    for line in documented.strip().splitlines():
        section, fields = line.strip().split(": ")
        flags = [f"{section}.{name}={value}" for name, value in (field.split() for field in fields.split(", "))]
        assert getattr(load(flags=flags, tmp_path=tmp_path), section) == getattr(config, section), line
    assert config.window_within(512) == 512


def test_flags_beat_the_environment_which_beats_the_file(tmp_path):
    text = "training: {lr: 1e-2, epochs: 3, batch_size: 5}\n"
    environ = {"LLM_TRAINING__LR": "0.02", "LLM_TRAINING__EPOCHS": "4", "LLM_SERVING_PORT": "1", "PATH": "/bin"}
    training = load(text, environ, ["training.lr=0.03"], tmp_path=tmp_path).training
    assert (training.lr, training.epochs, training.batch_size) == (0.03, 4, 5)


def test_text_becomes_the_type_of_its_field(tmp_path):
    flags = ["model.use_glu=true", "model.num_kv_heads=null", "model.window_layers=[true, false]"]
    flags += ["model.rope_scaling={kind: linear, factor: 2}", "training.gradient_clip_val=none"]
    flags += ["data.dataset_path=123"]
    config = load("training: {lr: 1e-4}\nmodel:\n", {}, flags, tmp_path=tmp_path)
    assert config.training.lr == 1e-4, "YAML reads 1e-4 as text"
    assert config.model.use_glu is True
    assert config.model.num_kv_heads is None
    assert config.model.window_layers == (True, False)
    assert config.model.rope_scaling.factor == 2.0
    assert config.training.gradient_clip_val is None
    assert config.data.dataset_path == "123"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training:\n  epoch: 3\n", r"run.yaml, line 2: section training has no field 'epoch'.*training.epochs"),
        ("optimization:\n  lr: 3\n", r"line 2.*no field 'lr'.*training.lr"),
        ("trainin:\n  lr: 3\n", r"line 1: there is no section 'trainin'.*'training'"),
        ("training:\n  lr: fast\n", r"line 2: training.lr is 'fast'; it must be a number"),
        ("model:\n  num_layers: 2.5\n", r"line 2: model.num_layers is 2.5; it must be a whole number"),
        ("model:\n  num_layers: true\n", r"model.num_layers is True; it must be a whole number"),
        ("model:\n  use_glu: 7\n", r"model.use_glu is 7; it must be true or false"),
        ("training:\n  batch_size: 0\n", r"line 2: training.batch_size is 0; it must be at least 1"),
        ("training:\n  lr: .nan\n", r"training.lr is nan"),
        ("training:\n  scheduler_type: slow\n", r"scheduler_type is 'slow'; it must be one of cosine, linear, const"),
        ("model:\n  hidden_size: 65\n", r"line 2: model.hidden_size is 65; it must be a multiple of num_heads \(8\)"),
        ("model:\n  rope_scaling: {kind: linear, factr: 2}\n", r"no field 'factr'.*model.rope_scaling.factor"),
        ("model:\n  rope_scaling: {factor: 2}\n", r"model.rope_scaling needs kind"),
        ("model:\n  dropout: 0\n  dropout: 1\n", r"line 3: dropout is given twice"),
        ("model: 3\n", r"line 1: section model must hold"),
        ("- 3\n", r"line 1: the file must hold"),
        ("model: [1\n", r"not YAML"),
        ("data: {max_seq_len: 1024}\n", r"data.max_seq_len is 1024, but model.max_seq_len is 512"),
        ("data: {overlap: 512}\n", r"data.overlap is 512; it must be below the window of 512"),
        ("training: {scheduler_type: plateau, run_validation: false}\n", r"plateau watches the validation loss"),
    ],
)
def test_mistakes_in_the_file(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        load(text, tmp_path=tmp_path)


def test_mistakes_elsewhere_name_the_variable_or_the_flag(tmp_path):
    with pytest.raises(ConfigError, match=r"environment variable LLM_MODEL__HIDEN_SIZE.*model.hidden_size"):
        load(environ={"LLM_MODEL__HIDEN_SIZE": "8"}, tmp_path=tmp_path)
    with pytest.raises(ConfigError, match=r"--set: section model has no field 'layers'"):
        load(flags=["model.layers=8"], tmp_path=tmp_path)
    with pytest.raises(ConfigError, match=r"write section.field=value"):
        load(flags=["lr"], tmp_path=tmp_path)
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_train_config(tmp_path / "missing.yaml", environ={})


def test_every_field_survives_being_written_and_read(tmp_path):
    flags = ["model.vocab_size=300", "model.num_layers=2", "model.window_layers=[true, false]", "training.lr=0.1234567"]
    flags += ["model.rope_scaling={kind: llama3, factor: 8}", "data.dataset_path=a b.txt"]
    config = load(flags=flags, tmp_path=tmp_path)
    write_config(config, tmp_path / "again.yaml")
    assert load_train_config(tmp_path / "again.yaml", environ={}) == config
    write_config(TrainConfig(), tmp_path / "defaults.yaml")
    assert load_train_config(tmp_path / "defaults.yaml", environ={}) == TrainConfig()


def test_every_section_is_frozen():
    for cls in SECTIONS.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            cls().anything = 1
