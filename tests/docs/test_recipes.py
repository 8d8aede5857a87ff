"""Every recipe in configs/ in miniature: its own settings, but a tiny model, a few examples and two steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from llm_jax.checkpoint import save_model
from llm_jax.config import ModelConfig
from llm_jax.model import Model
from llm_jax.tokenizers import BPETokenizer
from llm_jax.training import Setting, load_train_config, train
from scripts.make_conversations import records, undrawn
from scripts.recipes import CONFIGS, Recipe, names

SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 32}
TEXT = "Once upon a time there was a little dog. User: Hello! Assistant: Hello, who are you? {} [] 123 "


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its tokenizer, a text, conversations and preferences."""
    folder = tmp_path_factory.mktemp("recipes")
    tokenizer = BPETokenizer.train([TEXT * 20], 270)
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_seq_len": 512}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **sizes, positions="rotary", norm="rms_norm", dropout=0.0)
    save_model(folder / "model", Model.init(config), tokenizer)
    (folder / "text.txt").write_text("\n\n".join([TEXT * 8] * 30), encoding="utf-8")
    for name, preferences in (("talks", False), ("pairs", True)):
        lines = map(json.dumps, records(0, 12, preferences=preferences))
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:.*does not divide")
@pytest.mark.parametrize("name", names())
def test_a_recipe_runs(name: str, tiny: Path, tmp_path: Path) -> None:
    recipe, path = Recipe.read(name), CONFIGS / f"{name}.yaml"
    given = load_train_config(path, environ={})
    task: Any = recipe.task
    data = {"lm": "text.txt", "distill": "text.txt", "sft": "talks.jsonl", "dpo": "pairs.jsonl"}[task]
    settings = {
        "data.dataset_path": tiny / data, "checkpoint.checkpoint_dir": tmp_path / "run", "training.length": "2 steps",
        "training.batch_size": 2, "training.warmup": "1 step", "logging.log_level": "ERROR",
        "training.run_validation": "false", "training.early_stopping_patience": "null",
    }  # fmt: skip
    if given.model.init_from is not None:
        settings["model.init_from"] = tiny / "model"
    else:
        settings |= {f"model.{name}": size for name, size in SMALL.items()}
        settings["model.max_seq_len"] = settings["data.max_seq_len"] = 64
    if given.data.tokenizer_path is not None:
        settings["data.tokenizer_path"] = tiny / "model"
    if given.data.tokenizer_type == "bpe":
        settings["data.vocab_size"] = 270
    if given.distillation.teacher is not None:
        settings["distillation.teacher"] = tiny / "model"
    overrides = [
        Setting(*name.split("."), value if isinstance(value, int) else str(value), "test")
        for name, value in settings.items()
    ]
    result = train(task, load_train_config(path, environ={}, overrides=overrides))
    assert result.progress.step == 2
    assert (result.run.last / "tokenizer.json").exists()
    assert f"configs/{name}.yaml" in recipe.commands[-1]
    assert (recipe.loss and recipe.minutes) or name == "gpt2", "what it reaches, and in what time, is not stated"


def test_an_answer_is_right_whatever_number_was_drawn() -> None:
    """All else counts to the letter, the form of the number too."""
    answer = records(0, 1)[0]["messages"][1]["content"]
    number = str(json.loads(answer)["order"])
    same, wrong = answer.replace(number, "123456"), answer.replace(": ", ":", 1)
    short, quoted, further = (answer.replace(number, text) for text in ("12345", f'"{number}"', f"{number}, 1"))
    assert undrawn(same) == undrawn(answer)
    assert undrawn(answer) not in map(undrawn, (wrong, short, quoted, further, f"{answer} "))
