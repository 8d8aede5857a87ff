"""Datasets as a configuration names them: shapes, lists, mixtures, validation sets, packing; resumed as they were."""

import json

import numpy as np
import pytest

from llm_jax import demo
from llm_jax.data import Mixture, PackedRows, TokenWindows
from llm_jax.errors import ConfigError, DataError
from llm_jax.tokenizers import BPETokenizer, load_tokenizer
from llm_jax.training import train
from llm_jax.training.metrics import read_metrics
from llm_jax.training.tasks import TASKS
from llm_jax.training.tasks.text_data import open_text_data

SENTENCES = [f"The {a} saw a {b}." for a in ("dog", "cat", "fox") for b in ("ball", "moon", "tree", "bird")]


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(SENTENCES, 300)


@pytest.fixture
def files(tmp_path):
    """A text, records of text, conversations and preferences."""
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "The dog."}]
    other = [*turns[:1], {"role": "assistant", "content": "A tree."}]
    (tmp_path / "a.txt").write_text("\n\n".join(SENTENCES))
    for name, rows in {
        "b": [{"text": sentence.upper()} for sentence in SENTENCES],
        "talks": [{"messages": turns}] * 12,
        "pairs": [{"chosen": turns, "rejected": other}] * 12,
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def texts_of(source, tokenizer):
    """The text of each segment of all rows, in their order."""
    found = []
    for index in range(len(source)):
        row = source[index]
        for segment in range(1, 1 + int(row["segments"].max())):
            here = (row["segments"] == segment) & (row["weights"] == 1)
            found.append(tokenizer.decode(row["targets"][here].tolist()))
    return found


def test_text_and_records_are_read_by_their_fields_and_packed(config, files, bpe):
    paths = f"data.dataset_path=[{files / 'a.txt'}, {files / 'b.jsonl'}]"
    data = open_text_data(config(paths), bpe, "text", 64)
    assert isinstance(data.train, PackedRows)
    held_out = texts_of(data.validation, bpe)
    everything = texts_of(data.train, bpe) + held_out
    assert sorted(everything) == sorted([*SENTENCES, *(sentence.upper() for sentence in SENTENCES)])
    assert set(held_out) < {sentence.upper() for sentence in SENTENCES}, "the last ones"


def test_what_is_learnt_depends_on_the_task(config, files, bpe):
    talks = f"data.dataset_path={files / 'talks.jsonl'}"
    answers = open_text_data(config(talks), bpe, "answers", 64).train
    assert {text.strip() for text in texts_of(answers, bpe)} == {"The dog."}
    assert texts_of(open_text_data(config(talks), bpe, "text", 64).train, bpe)[0] == "User: Who?\nAssistant: The dog.\n"
    pairs = open_text_data(config(f"data.dataset_path={files / 'pairs.jsonl'}"), bpe, "preferences", 64)
    assert (len(pairs.train), len(pairs.validation)) == (10, 2)
    chosen, rejected = pairs.train[0]["targets"]
    assert bpe.decode(chosen[pairs.train[0]["weights"][0] == 1].tolist()).strip() == "The dog."
    assert bpe.decode(rejected[pairs.train[0]["weights"][1] == 1].tolist()).strip() == "A tree."
    with pytest.raises(DataError, match=r"pairs.jsonl, line 1: .*for --task dpo"):
        open_text_data(config(f"data.dataset_path={files / 'pairs.jsonl'}"), bpe, "text", 64)


def test_answers_that_are_nothing_but_text_are_noted(config, files):
    for name, notes in (("b", 1), ("talks", 0)):
        data = [f"data.dataset_path={files / name}.jsonl", f"data.tokenizer_path={demo.PATH}"]
        assert len(TASKS["sft"](config(*data), None).notes) == notes


def test_a_chat_template_can_be_replaced_and_is_saved_with_the_model(config, files):
    template = "{% for m in messages %}[{% generation %}{{ m.content }}{% endgeneration %}]{% endfor %}"
    data = [f"data.dataset_path={files / 'talks.jsonl'}", f"data.tokenizer_path={demo.PATH}", "model.max_seq_len=64"]
    given = f"data.chat_template={files / 'marked.jinja'}"
    with pytest.raises(ConfigError, match=r"marked.jinja: No such file"):
        TASKS["sft"](config(*data, given), None)
    (files / "marked.jinja").write_text(template)
    task = TASKS["sft"](config(*data, given), None)
    assert texts_of(task.train, task.tokenizer)[0] == "Who?The dog."
    task.tokenizer.save_pretrained(files / "saved")
    assert load_tokenizer(files / "saved").chat_template == template


def test_a_mapping_is_a_mixture(config, files, bpe):
    mapping = f"data.dataset_path={{{files / 'a.txt'}: 3, {files / 'b.jsonl'}: 1.5}}"
    data = open_text_data(config(mapping), bpe, "text", 16)
    assert isinstance(data.train, Mixture)
    assert tuple(data.train.weights) == (3.0, 1.5)
    assert len(texts_of(data.validation, bpe)) >= 2, "of each the last ones are held out"
    with pytest.raises(ConfigError, match="a mapping to weights above 0"):
        config(f"data.dataset_path={{{files / 'a.txt'}: 0}}")


def test_packing_can_be_chosen(config, files, bpe):
    path = f"data.dataset_path={files / 'a.txt'}"
    assert isinstance(open_text_data(config(path, "data.packing=stream"), bpe, "text", 16).train, TokenWindows)
    alone = open_text_data(config(path, "data.packing=none"), bpe, "text", 64)
    assert len(alone.train) + len(alone.validation) == len(SENTENCES)
    assert "segments" not in alone.train[0]
    with pytest.raises(ConfigError, match=r"0 unless data.packing is stream"):
        config(path, "data.packing=documents", "data.overlap=2")


def test_what_is_too_little_is_said(config, files, bpe):
    with pytest.raises(DataError, match="No training pair has both answers within the first 2 tokens"):
        open_text_data(config(f"data.dataset_path={files / 'pairs.jsonl'}"), bpe, "preferences", 2)
    (files / "one.jsonl").write_text((files / "pairs.jsonl").read_text().splitlines()[0])
    with pytest.raises(DataError, match="There is one example"):
        open_text_data(config(f"data.dataset_path={files / 'one.jsonl'}"), bpe, "preferences", 64)


def test_named_validation_sets_are_measured_and_decide_nothing(config, files):
    more = f"data.validation={{b: {files / 'b.jsonl'}, same: {files / 'a.txt'}}}"
    result = train("lm", config(f"data.dataset_path={files / 'a.txt'}", more, "training.epochs=2"))
    epochs = [record for record in read_metrics(result.run.metrics) if record["event"] == "epoch"]
    assert len(epochs) == 2
    assert epochs[-1]["validation_loss_same"] < epochs[-1]["validation_loss_b"], "capitals were never seen"
    assert result.progress.best.best == min(record["validation_loss"] for record in epochs)


def test_a_run_on_another_text_of_equal_length_is_not_resumed(config, corpus):
    train("lm", config("training.epochs=1"))
    corpus.write_text(corpus.read_text().replace("saw", "was"))
    with pytest.raises(ConfigError, match="fingerprint of the training data was"):
        train("lm", config("training.epochs=2", "checkpoint.resume_from_checkpoint=auto"))


def test_a_packed_run_learns(config, files):
    """Rows with segments go through a whole run, and what is learnt is what rows of their own teach."""
    losses = []
    for packing in ("documents", "none"):
        settings = [f"data.dataset_path={files / 'a.txt'}", "data.tokenizer_type=bpe", "data.vocab_size=280"]
        settings += ["model.max_seq_len=64", "training.batch_size=16", "model.dropout=0", "training.epochs=2"]
        result = train("lm", config(*settings, f"data.packing={packing}", directory=packing))
        losses.append(result.progress.last_loss)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
