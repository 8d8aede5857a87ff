"""A tiny corpus and a tiny run."""

import random
from pathlib import Path

import jax
import pytest

from llm_jax.training import Setting, load_train_config

WHO, DID, WHAT = ["Tom", "Anna", "The cat", "A dog"], ["saw", "found", "lost"], ["a ball", "the moon", "some bread"]

TINY = [
    *("model.hidden_size=16", "model.num_layers=1", "model.num_heads=2", "model.max_seq_len=16"),
    *("model.positions=rotary", "training.batch_size=8", "training.epochs=3", "training.lr=0.01"),
    *("training.warmup_epochs=0.5", "logging.log_interval=1", "optimization.num_workers=1"),
]


@pytest.fixture(scope="session", autouse=True)
def _compile_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every run jits functions of its own; most of them are the same programs."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """120 documents of two sentences."""
    choose = random.Random(0).choice
    sentences = [f"{choose(WHO)} {choose(DID)} {choose(WHAT)}." for _ in range(240)]
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(map(" ".join, zip(sentences[::2], sentences[1::2], strict=True))), encoding="utf-8")
    return path


@pytest.fixture
def flags(corpus, tmp_path):
    """`section.field=value` settings of a run that takes a second or two; more can be added."""

    def settings(*more: str, directory: str = "run") -> list[str]:
        places = [
            f"data.dataset_path={corpus}",
            f"data.cache_dir={tmp_path / 'cache'}",
            f"logging.log_dir={tmp_path / 'logs'}",
        ]
        return [*TINY, *places, f"checkpoint.checkpoint_dir={tmp_path / directory}", *more]

    return settings


@pytest.fixture
def config(flags):
    """The same as a TrainConfig."""

    def build(*more: str, directory: str = "run"):
        settings = flags(*more, directory=directory)
        return load_train_config(environ={}, overrides=[Setting.parse(flag, "test") for flag in settings])

    return build
