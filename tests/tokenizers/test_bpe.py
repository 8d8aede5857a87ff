import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llm_jax.errors import TokenizerError, UnknownToken
from llm_jax.tokenizers import BPETokenizer, Tokenizer, load_tokenizer

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@given(text=ANY_TEXT)
@example(text="  two  spaces\n\n\tand 漢字 👩\u200d🚀 e\u0301\x00\r\n")
def test_every_text_round_trips(bpe, text):
    assume(not any(token in text for token in bpe.hidden_tokens))
    assert bpe.decode(bpe.encode(text)) == text


def test_learns_the_words_of_its_corpus(bpe, texts):
    assert bpe.vocab_size == 600
    assert len(bpe.encode(texts[0])) < len(texts[0].encode()) / 2
    assert isinstance(bpe, Tokenizer)


def test_special_tokens(bpe):
    assert bpe.eos_token_id == bpe.bos_token_id == 0
    assert bpe.pad_token_id == 1
    assert bpe.encode("a<|endoftext|>b") == [*bpe.encode("a"), 0, *bpe.encode("b")]
    assert bpe.decode([0, *bpe.encode("a"), 1]) == "a"


def test_training_again_gives_the_same_tokenizer(bpe, texts):
    again = BPETokenizer.train(texts, vocab_size=600)
    assert again._backend.to_str() == bpe._backend.to_str()


@pytest.mark.parametrize("name", ["directory", "one/file.json"])
def test_a_saved_tokenizer_loads_unchanged(bpe, texts, tmp_path, name):
    bpe.save(tmp_path / name)
    loaded = BPETokenizer.load(tmp_path / name)
    assert [loaded.encode(text) for text in texts] == [bpe.encode(text) for text in texts]
    assert loaded.special_tokens == bpe.special_tokens
    assert loaded.vocab_size == bpe.vocab_size


def test_transformers_gives_the_same_ids(bpe, texts, tmp_path):
    bpe.save_pretrained(tmp_path)
    oracle = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*texts[:20], "", " ", "漢字 👩\u200d🚀", "<|endoftext|>x", "don't  stop\n"]:
        assert oracle.encode(text) == bpe.encode(text) == load_tokenizer(tmp_path).encode(text)
    assert (oracle.eos_token_id, oracle.bos_token_id, oracle.pad_token_id) == (0, 0, 1)


def test_a_vocabulary_smaller_than_all_bytes_is_refused():
    with pytest.raises(TokenizerError, match=r"257.*258"):
        BPETokenizer.train(["a"], vocab_size=257)
    assert BPETokenizer.train(["a"], vocab_size=258).vocab_size == 258


def test_one_string_is_not_a_corpus():
    with pytest.raises(TypeError, match=r"\[text\]"):
        BPETokenizer.train("hello", vocab_size=300)


def test_invalid_text_and_ids_are_refused(bpe):
    with pytest.raises(TokenizerError, match="surrogate at character 2"):
        bpe.encode("ab\ud800")
    with pytest.raises(UnknownToken, match="-3"):
        bpe.decode([5, -3])
