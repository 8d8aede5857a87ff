import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llm_jax.errors import TokenizerError, UnknownToken
from llm_jax.tokenizers import CharacterTokenizer, Tokenizer, load_tokenizer

ODD = "tab\t line\n return\r nul\x00 bell\x07 accent e\u0301 joined 👨\u200d👩\u200d👧 漢字 \u2028 \ufeff \ufffd"


def test_documented_facts():
    tokenizer = CharacterTokenizer(["hello", "world"])
    assert tokenizer.chars == ["d", "e", "h", "l", "o", "r", "w", "<PAD>"]
    assert tokenizer.vocab_size == 8
    assert tokenizer.pad_char == "<PAD>"
    assert tokenizer.pad_token_id == tokenizer.stoi["<PAD>"] == 7
    assert tokenizer.itos[0] == "d"
    assert tokenizer.bos_token_id is None
    assert tokenizer.eos_token_id is None
    assert tokenizer.encode("") == []
    assert tokenizer.encode("<PAD>") == [7]
    assert tokenizer.encode("he<PAD>") == [2, 1, 7]
    assert tokenizer.decode([2, 1, 7]) == "he<PAD>"
    assert isinstance(tokenizer, Tokenizer)


@pytest.mark.parametrize("corpus", ["hello", ("a", "b"), [1], [b"a"], None])
def test_a_corpus_is_a_list_of_strings(corpus):
    with pytest.raises(TypeError, match="list of strings"):
        CharacterTokenizer(corpus)


def test_unknown_character_and_id_are_key_errors_that_name_them():
    tokenizer = CharacterTokenizer(["abc"])
    with pytest.raises(KeyError, match="'é'"):
        tokenizer.encode("é")
    with pytest.raises(UnknownToken, match="99"):
        tokenizer.decode([0, 99])
    with pytest.raises(UnknownToken, match="-1"):
        tokenizer.decode([-1])


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_every_text_round_trips(text):
    tokenizer = CharacterTokenizer([text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("corpus", [["hello world"], [ODD, string.printable], ["<PAD> in the corpus"], [""], []])
def test_a_saved_tokenizer_opens_here_and_in_transformers(corpus, tmp_path):
    tokenizer = CharacterTokenizer(corpus, chat_template="{{ messages }}")
    text = "".join(corpus)
    tokenizer.save_pretrained(tmp_path)

    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, CharacterTokenizer)
    assert loaded.stoi == tokenizer.stoi
    assert loaded.chat_template == "{{ messages }}"

    transformers_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert transformers_tokenizer.encode(text) == tokenizer.encode(text)
    assert transformers_tokenizer.decode(tokenizer.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert transformers_tokenizer.pad_token_id == tokenizer.pad_token_id
    assert len(transformers_tokenizer) == tokenizer.vocab_size


def test_unknown_characters_stay_errors_after_loading(tmp_path):
    CharacterTokenizer(["abc"]).save_pretrained(tmp_path)
    with pytest.raises(KeyError, match="'z'"):
        load_tokenizer(tmp_path).encode("z")


def test_still_a_character_tokenizer_when_transformers_saved_it(tmp_path):
    CharacterTokenizer(["abc"]).save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    assert isinstance(load_tokenizer(tmp_path / "again"), CharacterTokenizer)


def test_another_word_level_tokenizer_is_not_a_character_tokenizer(tmp_path):
    CharacterTokenizer(["abc"]).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["pre_tokenizer"] = {"type": "Whitespace"}
    path.write_text(json.dumps(spec))
    assert not isinstance(load_tokenizer(tmp_path), CharacterTokenizer)


def test_a_lone_surrogate_cannot_be_saved(tmp_path):
    with pytest.raises(TokenizerError, match="surrogate"):
        CharacterTokenizer(["\ud800"]).save_pretrained(tmp_path)
