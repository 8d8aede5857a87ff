"""The tokenizer of a language model: loaded, or made from the training text."""

import pytest

from llm_jax.errors import ConfigError
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer
from llm_jax.training import DataConfig, TrainConfig
from llm_jax.training.tasks.tokenizer import find_tokenizer, make_tokenizer


def test_bpe_merges_are_learnt_from_training_text_alone():
    train = ["the cat sat on the mat"] * 20
    tokenizer = make_tokenizer(DataConfig(tokenizer_type="bpe", vocab_size=300), train, ["zqxj zqxj"] * 50)
    assert len(tokenizer.encode("zqxj")) == 4
    assert len(tokenizer.encode(" the")) == 1


def test_hf_needs_a_path():
    with pytest.raises(ConfigError, match=r"data.tokenizer_path"):
        find_tokenizer(TrainConfig(data=DataConfig(tokenizer_type="hf")), None, None)


@pytest.mark.parametrize("kind", ["bpe", "hf", "simple"])
def test_a_saved_tokenizer_is_taken_as_it_is(tmp_path, kind):
    saved = CharacterTokenizer(["abc the cat"]) if kind == "simple" else BPETokenizer.train(["the cat"] * 9, 270)
    saved.save_pretrained(tmp_path)
    data = DataConfig(tokenizer_type=kind, tokenizer_path=str(tmp_path))
    assert find_tokenizer(TrainConfig(data=data), None, None).encode("the cat") == saved.encode("the cat")
