"""Tokens are made once for each content, tokenizer and form, and read from shards after that."""

import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llm_jax.data import preparation, prepare, reading, remove_shards, stored_shards, tokenising
from llm_jax.errors import DataError
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer

ROOT = Path(__file__).parents[2]
DOCUMENTS = [f"Document {i} says {'é🙂 ' * (i % 7)}and ends." for i in range(200)]


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(DOCUMENTS, 300)


@pytest.fixture
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    return path


class Counter:
    """A watcher that counts how often something was made, and how much."""

    def __init__(self):
        self.begun, self.nbytes, self.tokens = [], 0, 0

    def begin(self, nbytes):
        self.begun.append(nbytes)

    def advance(self, nbytes, tokens):
        self.nbytes += nbytes
        self.tokens += tokens

    def end(self):
        pass


def ids(sequences):
    return [sequences[i][0].tolist() for i in range(len(sequences))]


def test_a_document_is_its_tokens_and_its_end(corpus, cache, bpe):
    watcher = Counter()
    found = prepare(corpus, bpe, "text", cache=cache, watcher=watcher)
    assert ids(found) == [[*bpe.encode(document), bpe.eos_token_id] for document in DOCUMENTS]
    assert found.stream[5:40].tolist() == [index for row in ids(found) for index in row][5:40]
    assert watcher.tokens == len(found.stream)
    assert watcher.nbytes == pytest.approx(corpus.stat().st_size, abs=10)


def test_the_second_time_nothing_is_made(corpus, cache, bpe):
    first, watcher = prepare(corpus, bpe, "text", cache=cache), Counter()
    second = prepare(corpus, bpe, "text", cache=cache, watcher=watcher)
    assert watcher.begun == []
    assert isinstance(second.shards[0].tokens, np.memmap)
    assert second.shards[0].tokens.dtype == np.uint16
    assert second.fingerprint == first.fingerprint
    assert ids(second) == ids(first)
    other = corpus.with_name("other.txt")
    other.write_bytes(corpus.read_bytes())
    prepare(other, bpe, "text", cache=cache, watcher=watcher)
    assert watcher.begun == [], "what counts is what a file holds"


def test_a_changed_file_is_noticed_also_one_of_equal_length_and_time(corpus, cache, bpe):
    before, stat = prepare(corpus, bpe, "text", cache=cache), corpus.stat()
    corpus.write_text(corpus.read_text("utf-8").replace("says", "sang"), encoding="utf-8")
    os.utime(corpus, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert corpus.stat().st_size == stat.st_size
    after = prepare(corpus, bpe, "text", cache=cache)
    assert "sang" in bpe.decode(after[0][0].tolist())
    assert after.fingerprint != before.fingerprint


def test_the_tokenizer_and_the_form_count_too(tmp_path, cache, bpe):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "Document", "completion": " 1 says", "text": "x"}) + "\n")
    made = Counter()
    for tokenizer, form in [
        (bpe, "text"),
        (bpe, "answers"),
        (BPETokenizer.train(DOCUMENTS, 290), "text"),
        (CharacterTokenizer(["x\n"]), "text"),
        (BPETokenizer(bpe._backend, chat_template="{{ messages }}"), "text"),
    ]:
        prepare(path, tokenizer, form, cache=cache, watcher=made)
    assert len(made.begun) == 5
    answers = prepare(path, bpe, "answers", cache=cache)
    assert answers[0][1].tolist() == [0.0] * len(bpe.encode("Document")) + [1.0] * (len(answers[0][0]) - 1)


@pytest.mark.parametrize("name", ["corpus.txt", "corpus.jsonl.gz"])
def test_processes_make_the_same_tokens_in_the_same_order(tmp_path, cache, bpe, monkeypatch, name):
    path = tmp_path / name
    if name.endswith("gz"):
        path.write_bytes(gzip.compress("".join(json.dumps({"text": d}) + "\n" for d in DOCUMENTS).encode()))
    else:
        path.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    alone = prepare(path, bpe, "text", cache=cache / "alone")
    monkeypatch.setattr(tokenising, "SMALL", 0)
    monkeypatch.setattr(reading, "PART", 1000)
    monkeypatch.setattr(preparation, "_RECORDS", 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    many = prepare(path, bpe, "text", cache=cache / "many")
    assert ids(many) == ids(alone)


def test_an_error_in_a_process_names_the_line(tmp_path, bpe, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 50 + '{"txt": "a"}\n')
    monkeypatch.setattr(tokenising, "SMALL", 0)
    monkeypatch.setattr(reading, "PART", 200)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(DataError, match=r"a.jsonl, line 51: the fields are txt"):
        prepare(path, bpe, "text", cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/shard.json")), "no half of a shard"


def test_small_files_share_a_shard_and_large_ones_have_their_own(tmp_path, cache, bpe, monkeypatch):
    for i in range(6):
        (tmp_path / f"{i}.txt").write_text(f"Document {i} says and ends.")
    monkeypatch.setattr(preparation, "SHARD", 60)
    found = prepare(tmp_path, bpe, "text", cache=cache)
    assert [len(shard.ends) for shard in found.shards] == [2, 2, 2]
    assert [bpe.decode(row) for row in ids(found)] == [f"Document {i} says and ends." for i in range(6)]
    watcher = Counter()
    (tmp_path / "5.txt").write_text("Document 7 says and ends.")
    prepare(tmp_path, bpe, "text", cache=cache, watcher=watcher)
    assert watcher.begun == [50], "the shard of the file that has changed"


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_the_last_sequences_are_split_off(tmp_path, cache, bpe, monkeypatch, fraction):
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text("\n\n".join(DOCUMENTS[50 * i : 50 * i + 50]), encoding="utf-8")
    monkeypatch.setattr(preparation, "SHARD", 1000)
    whole = prepare(tmp_path, bpe, "text", cache=cache)
    first, last = whole.split(fraction)
    assert ids(first) + ids(last) == ids(whole)
    characters = [len(document) for document in DOCUMENTS]
    assert sum(characters[len(first) :]) / sum(characters) == pytest.approx(fraction, abs=0.01)
    assert len({whole.fingerprint, first.fingerprint, last.fingerprint}) == 3
    pairs, others = whole.split(fraction, group=2)
    assert len(pairs) % 2 == len(others) % 2 == 0


def test_a_single_document_is_cut(tmp_path, cache, bpe):
    (tmp_path / "a.txt").write_text(DOCUMENTS[6])
    whole = prepare(tmp_path / "a.txt", bpe, "text", cache=cache)
    first, last = whole.split(0.25)
    assert first.stream[:].tolist() + last.stream[:].tolist() == whole.stream[:].tolist()
    assert len(last.stream) == pytest.approx(len(whole.stream) / 4, abs=1)


def test_a_damaged_shard_is_named(corpus, cache, bpe):
    prepare(corpus, bpe, "text", cache=cache)
    tokens = next(cache.glob("*/tokens"))
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DataError, match=rf"{tokens.parent}: a damaged shard.*Remove it"):
        prepare(corpus, bpe, "text", cache=cache)


def test_a_killed_preparation_leaves_no_shard_and_the_next_one_sweeps(tmp_path, cache, bpe):
    bpe.save_pretrained(tmp_path / "tokenizer")
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    script = (
        "import os, signal, sys\n"
        "from llm_jax.data import prepare, preparation\n"
        "from llm_jax.tokenizers import load_tokenizer\n"
        "write = preparation.write_shard\n"
        "preparation.write_shard = lambda *args: (write(*args), os.kill(os.getpid(), signal.SIGKILL))\n"
        "prepare(sys.argv[1], load_tokenizer(sys.argv[2]), 'text', cache=sys.argv[3])\n"
    )
    command = [sys.executable, "-c", script, str(path), str(tmp_path / "tokenizer"), str(cache)]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [entry for entry in cache.iterdir() if entry.name.startswith(".")]
    found = prepare(path, bpe, "text", cache=cache)
    assert len(found) == len(DOCUMENTS)
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".")]


def test_where_nothing_can_be_written_another_place_is_named(corpus, bpe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.cache_dir"):
        prepare(corpus, bpe, "text", cache=tmp_path / "file" / "cache")


def test_a_dataset_without_text_is_refused(tmp_path, cache, bpe):
    (tmp_path / "a.txt").write_text("\n \n")
    with pytest.raises(DataError, match=r"a.txt: there is no text in it"):
        prepare(tmp_path / "a.txt", bpe, "text", cache=cache)


def test_a_long_document_has_the_tokens_of_the_whole(bpe, tmp_path, cache):
    """It is tokenised in pieces, so that memory does not grow with its length."""
    text = "".join(f"Document {i} says é🙂\n" for i in range(48_000))
    assert len(text) > 1 << 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    found = prepare(tmp_path / "a.txt", bpe, "text", cache=cache)
    assert ids(found) == [[*bpe.encode(text.strip("\n")), bpe.eos_token_id]]


def in_another_process(corpus, cache):
    """A process that has the shards of a text open, until its input ends."""
    program = """
import sys
from llm_jax.data import prepare
from llm_jax.tokenizers import load_tokenizer
held = prepare(sys.argv[1], load_tokenizer(sys.argv[2]), "text", cache=sys.argv[3]).split(0.5)[1]  # a part of them
print("ready", flush=True)
sys.stdin.read()
print(len(held.stream))
"""
    command = [sys.executable, "-c", program, str(corpus), str(corpus.parent / "tokenizer"), str(cache)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_least_recently_used_shards_go_and_none_that_is_in_use(tmp_path, cache, bpe):
    texts = []
    for name in "abc":
        texts.append(tmp_path / name / "text.txt")
        texts[-1].parent.mkdir()
        texts[-1].write_text("\n\n".join(f"{name} {document}" for document in DOCUMENTS), encoding="utf-8")
    bpe.save_pretrained(tmp_path / "a" / "tokenizer")
    for text in texts:
        prepare(text, bpe, "text", cache=cache)

    def names():
        return [Path(shard.files[0]).parent.name for shard in stored_shards(cache)]

    size = stored_shards(cache)[0].nbytes
    for age, shard in enumerate(stored_shards(cache)):  # as they were made: c is the newest
        os.utime(shard.path / "shard.json", (1e9 - age, 1e9 - age))
    assert not any(shard.in_use for shard in stored_shards(cache))
    prepare(texts[1], bpe, "text", cache=cache)  # is used: b, c, a
    assert names() == ["b", "c", "a"]
    process = in_another_process(texts[0], cache)  # a, b, c, of which a is in use
    assert [shard.in_use for shard in stored_shards(cache)] == [True, False, False]
    assert [Path(shard.files[0]).parent.name for shard in remove_shards(cache, 2.5 * size)] == ["c"]
    assert [Path(shard.files[0]).parent.name for shard in remove_shards(cache, 0)] == ["b"]
    said, _ = process.communicate(timeout=60)
    assert int(said) > 0
    assert len(remove_shards(cache, 0)) == 1
    assert stored_shards(cache) == []
    assert not list(cache.glob(".*"))


def test_a_limit_holds_where_something_new_is_made(tmp_path, cache, bpe, corpus):
    for number in range(3):
        corpus.write_text("\n\n".join(f"{number} {document}" for document in DOCUMENTS), encoding="utf-8")
        found = prepare(corpus, bpe, "text", cache=cache, limit=1)
        assert len(found) == len(DOCUMENTS)
        stored = stored_shards(cache)
        assert [shard.in_use for shard in stored] == [True], "the one that is in use stays"
        del found
    again = prepare(corpus, bpe, "text", cache=cache, limit=1)
    assert len(stored_shards(cache)) == 1, "nothing was made, nothing goes"
    assert len(again) == len(DOCUMENTS)
