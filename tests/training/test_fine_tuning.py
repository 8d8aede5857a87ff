"""Fine-tuning teaches: answers in a form, and which of two answers is better."""

import json
from pathlib import Path

import pytest

from llm_jax.checkpoint import load_model, save_model
from llm_jax.config import ModelConfig
from llm_jax.inference import Conversation, SamplingParams
from llm_jax.model import Model
from llm_jax.tokenizers import BPETokenizer
from llm_jax.training import Setting, load_train_config, train
from llm_jax.training.metrics import read_metrics

ANSWERS = {"red": "Stop.", "green": "Go.", "yellow": "Wait."}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose tokenizer knows the words; conversations and preferences lie beside it."""
    folder = tmp_path_factory.mktemp("base")
    questions = [f"{verb} {color}?" for color in ANSWERS for verb in ("Is it", "What of", "Now", "If")] * 4
    text = " ".join([f"User: {q} Assistant: {a}" for q in questions for a in ANSWERS.values()])
    tokenizer = BPETokenizer.train([text], 300)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=1, num_heads=2, max_seq_len=32, dropout=0.0,
        positions="rotary", norm="rms_norm",
    )  # fmt: skip
    save_model(folder / "model", Model.init(config), tokenizer)
    talks, pairs = [], []
    for question in questions:
        right = ANSWERS[question.split()[-1].rstrip("?")]
        wrong = next(answer for answer in ANSWERS.values() if answer != right)
        user = {"role": "user", "content": question}
        talks.append({"messages": [user, {"role": "assistant", "content": right}]})
        pairs.append({"prompt": [user], "chosen": [{"role": "assistant", "content": right}]})
        pairs[-1]["rejected"] = [{"role": "assistant", "content": wrong}]
    for name, records in (("talks", talks), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return folder


def run(task, base, directory, *more):
    data = base / ("pairs.jsonl" if task == "dpo" else "talks.jsonl")
    settings = [
        *(f"model.init_from={base / 'model'}", f"data.dataset_path={data}", f"checkpoint.checkpoint_dir={directory}"),
        *("training.batch_size=8", "training.warmup=2 steps", "data.val_fraction=0.2", "logging.log_level=ERROR"),
        *("optimization.num_workers=0", "training.lr=0.02", *more),
    ]
    result = train(task, load_train_config(environ={}, overrides=[Setting.parse(flag, "test") for flag in settings]))
    return result, [record for record in read_metrics(result.run.metrics) if record["event"] == "epoch"]


def test_conversations_teach_a_form_of_answers(base, tmp_path):
    result, _ = run("sft", base, tmp_path / "run", "training.length=60 steps", "data.max_seq_len=32")
    loaded = load_model(result.run.path)
    sampling = SamplingParams(temperature=0.0, max_new_tokens=8)
    talk = Conversation(loaded.model, loaded.tokenizer, sampling)
    for color, answer in ANSWERS.items():
        talk.clear()
        assert "".join(piece.text for piece in talk.answer(f"What of {color}?")).strip() == answer


@pytest.mark.parametrize("more", [["lora.rank=4"], ["preference.loss=orpo"]])
def test_preferences_raise_the_margin_on_held_out_pairs(base, tmp_path, more):
    """Beside an adapter the model before training is the base without it."""
    length = ["training.length=40 steps", "training.evaluate_every=2 steps", *more]
    _, evaluations = run("dpo", base, tmp_path / "run", *length)
    first, last = evaluations[0], evaluations[-1]
    assert last["validation_margin"] > max(1.5 * first["validation_margin"], 0.02)
    assert last["validation_loss"] < first["validation_loss"]
