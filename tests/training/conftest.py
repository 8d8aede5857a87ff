"""A tiny corpus and a tiny run."""

import os
import random
from collections.abc import Iterator
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


@pytest.fixture(scope="package", autouse=True)
def _compiled_quickly() -> Iterator[None]:
    """XLA optimises little, also in processes that a test starts: its compiler takes most of the time of these tests.

    They compare runs with runs, and steps with PyTorch's. `make test-training` does so with all optimisations.
    """
    if os.environ.get("LLM_JAX_LONG_TESTS"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", before)


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
