"""Text becomes windows in which every token is predicted once, and nothing held out is seen in training."""

import itertools

import numpy as np
import pytest

from llm_jax.data import TokenWindows, read_documents, split_documents, tokenize, unigram_entropy, windows
from llm_jax.errors import DataError
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer


def test_documents_are_what_blank_lines_separate(tmp_path):
    (tmp_path / "b.txt").write_text("User: hi\nAssistant: hello\n\n\nAn end.\n", encoding="utf-8")
    (tmp_path / "a.txt").write_text("A story.\n \nAnother 🙂.", encoding="utf-8")
    assert read_documents(tmp_path) == ["A story.", "Another 🙂.", "User: hi\nAssistant: hello", "An end."]


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no such file"), (b"\xff\xfe", "not UTF-8"), (b"\n \n", "no text")]
)
def test_unusable_files_are_named(tmp_path, content, says):
    path = tmp_path / "corpus.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"corpus.txt.*{says}"):
        read_documents(path)


def test_the_split_holds_out_the_last_documents_whole():
    documents = [f"document {i} " * 5 for i in range(40)]
    train, held_out = split_documents(documents, 0.1)
    assert train + held_out == documents
    assert not set(train) & set(held_out)
    fraction = sum(map(len, held_out)) / sum(map(len, documents))
    assert 0.05 < fraction <= 0.125


def test_the_split_leaves_something_on_either_side():
    assert split_documents(["a" * 1000, "b"], 0.1) == (["a" * 1000], ["b"])
    assert split_documents(["a", "b" * 1000], 0.9) == (["a"], ["b" * 1000])
    assert split_documents(["0123456789"], 0.2) == (["01234567"], ["89"]), "a single document is cut"


@pytest.mark.parametrize(("count", "length"), [(21, 5), (22, 5), (25, 5), (6, 5), (100, 7)])
def test_every_token_but_the_first_is_a_label_once(count, length):
    tokens = np.arange(1, count + 1, dtype=np.int32)
    source = TokenWindows(tokens, length)
    labels = []
    for i in range(len(source)):
        window = source[i]
        counted = window["weights"] == 1
        assert (window["targets"][counted] == window["inputs"][counted] + 1).all(), "a label is the token that follows"
        labels += window["targets"][counted].tolist()
    assert labels == tokens[1:].tolist()


def test_overlapping_windows_share_tokens_and_reach_the_end():
    tokens = np.arange(30, dtype=np.int32)
    source = TokenWindows(tokens, 8, overlap=3)
    rows = [source[i] for i in range(len(source))]
    for before, after in itertools.pairwise(rows):
        assert before["inputs"][-3:].tolist() == after["inputs"][:3].tolist()
    assert rows[-1]["targets"][rows[-1]["weights"] == 1][-1] == 29
    assert sum(row["weights"].sum() for row in rows[:-1]) < 8 * len(rows)


def test_too_little_text_names_both_sizes():
    with pytest.raises(DataError, match=r"5 tokens.*= 9"):
        windows(np.arange(5), 8, overlap=0, pad=None, name="training")


def test_documents_end_with_eos_or_a_blank_line():
    bpe = BPETokenizer.train(["one two"], 258)
    ids = tokenize(bpe, ["one", "two"])
    assert [i for i, token in enumerate(ids) if token == bpe.eos_token_id] == [3, 7]
    characters = CharacterTokenizer(["one two\n"])
    assert characters.decode(tokenize(characters, ["one", "two"]).tolist()) == "one\n\ntwo"


def test_unigram_entropy():
    assert unigram_entropy(np.array([0, 1, 2, 3] * 10)) == pytest.approx(np.log(4))
    assert unigram_entropy(np.array([0, 0, 0, 5])) == pytest.approx(0.75 * np.log(4 / 3) + 0.25 * np.log(4))
