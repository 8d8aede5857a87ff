"""The tokenizer of a language model: loaded, or made from the training text."""

import pytest

from llm_jax.errors import ConfigError
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer, fingerprint
from llm_jax.training import DataConfig, TrainConfig
from llm_jax.training.tasks.tokenizer import find_tokenizer, make_tokenizer


@pytest.fixture
def corpus(tmp_path):
    """The last fifth is held out."""
    texts = ["the cat sat on the mat"] * 20 + ["zqxj zqxj zqxj zqxj zqx"] * 5
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))

    def config(**data):
        data = {"dataset_path": str(tmp_path / "corpus.txt"), "cache_dir": str(tmp_path / "cache")} | data
        return TrainConfig(data=DataConfig(val_fraction=0.2, **data))

    return config


def test_bpe_merges_are_learnt_from_training_text_alone(corpus):
    tokenizer = make_tokenizer(corpus(tokenizer_type="bpe", vocab_size=300))
    assert len(tokenizer.encode("zqxj")) == 4
    assert len(tokenizer.encode(" the")) == 1


def test_characters_are_those_of_all_texts(corpus, tmp_path):
    (tmp_path / "more.txt").write_text("é")
    tokenizer = make_tokenizer(corpus(validation={"more": str(tmp_path / "more.txt")}))
    assert tokenizer.decode(tokenizer.encode("zqxj é\n")) == "zqxj é\n"


def test_a_tokenizer_is_made_once_for_a_text(corpus, tmp_path, monkeypatch):
    first = make_tokenizer(corpus(tokenizer_type="bpe", vocab_size=300))
    monkeypatch.setattr(BPETokenizer, "train", None)
    again = make_tokenizer(corpus(tokenizer_type="bpe", vocab_size=300))
    assert fingerprint(again) == fingerprint(first)
    (tmp_path / "corpus.txt").write_text("another text")
    with pytest.raises(TypeError):
        make_tokenizer(corpus(tokenizer_type="bpe", vocab_size=300))


def test_hf_needs_a_path():
    with pytest.raises(ConfigError, match=r"data.tokenizer_path"):
        find_tokenizer(TrainConfig(data=DataConfig(tokenizer_type="hf")), None, None)


@pytest.mark.parametrize("kind", ["bpe", "hf", "simple"])
def test_a_saved_tokenizer_is_taken_as_it_is(tmp_path, kind):
    saved = CharacterTokenizer(["abc the cat"]) if kind == "simple" else BPETokenizer.train(["the cat"] * 9, 270)
    saved.save_pretrained(tmp_path)
    data = DataConfig(tokenizer_type=kind, tokenizer_path=str(tmp_path))
    assert find_tokenizer(TrainConfig(data=data), None, None).encode("the cat") == saved.encode("the cat")
