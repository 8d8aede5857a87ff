import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_jax.tokenizers import CharacterTokenizer, IncrementalDecoder

# Many adjacent characters of two to four bytes, and spaces wherever a decoder may drop one.
TEXT = st.text(alphabet=st.one_of(st.sampled_from(" \n é漢字😀\u0301aA."), st.characters(exclude_categories=["Cs"])))


def pieces(tokenizer, ids):
    decoder = IncrementalDecoder(tokenizer)
    return [*(decoder.push(index) for index in ids), decoder.flush()]


@given(text=TEXT)
@example(text="漢字漢字😀😀 é é")
@example(text="   spaces   first")
@example(text="\ufffd a real replacement character \ufffd\ufffd")
@settings(deadline=None)
def test_pieces_join_to_the_decoded_text(any_tokenizer, text):
    ids = any_tokenizer.encode(text)
    assert "".join(pieces(any_tokenizer, ids)) == any_tokenizer.decode(ids)


@given(text=TEXT.filter(lambda text: "\ufffd" not in text))
@settings(deadline=None)
def test_no_piece_contains_half_a_character(any_tokenizer, text):
    assert not any("\ufffd" in piece for piece in pieces(any_tokenizer, any_tokenizer.encode(text)))


@given(data=st.data())
@settings(deadline=None)
def test_arbitrary_ids_join_to_the_decoded_text(any_tokenizer, data):
    """A model may generate invalid bytes, special tokens anywhere, and ids that only pad its vocabulary."""
    ids = data.draw(st.lists(st.integers(0, any_tokenizer.vocab_size + 2) | st.integers(0, 258), max_size=60))
    assert "".join(pieces(any_tokenizer, ids)) == any_tokenizer.decode(ids)


def test_a_run_of_byte_tokens_is_text_as_a_whole_or_not_at_all(sentencepiece):
    newline, lone = (sentencepiece._backend.token_to_id(token) for token in ("<0x0A>", "<0xE6>"))
    assert "".join(pieces(sentencepiece, [newline, lone])) == sentencepiece.decode([newline, lone]) == "\ufffd\ufffd"


@given(data=st.data())
@settings(deadline=None)
def test_special_tokens_between_words_lose_no_space(any_tokenizer, data):
    words = data.draw(st.lists(st.sampled_from(["the", "fox", "é", "漢"]), min_size=1, max_size=8))
    special = any_tokenizer.eos_token_id
    ids = [special]
    for index in any_tokenizer.encode(" ".join(words)):
        ids += [index] + [special] * data.draw(st.integers(0, 3))
    assert "".join(pieces(any_tokenizer, ids)) == any_tokenizer.decode(ids)


def test_a_character_is_returned_once_it_is_complete(bpe):
    decoder = IncrementalDecoder(bpe)
    returned = [decoder.push(index) for index in bpe.encode("a😀b")]
    assert [piece for piece in returned if piece] == ["a", "😀", "b"]


def test_invalid_bytes_are_not_pending_for_ever(bpe):
    continuation = bpe.encode("é")[-1]  # a byte that only continues a character
    decoder = IncrementalDecoder(bpe)
    shown = "".join(decoder.push(continuation) for _ in range(100))
    assert 90 <= len(shown) <= 100
    assert set(shown) == {"\ufffd"}


def test_a_character_tokenizer_streams_too():
    text = "漢e\u0301<PAD>😀"
    tokenizer = CharacterTokenizer([text])
    assert "".join(pieces(tokenizer, tokenizer.encode(text))) == text


@pytest.mark.parametrize("content", ["words", "invalid", "special"])
def test_the_cost_of_a_push_does_not_grow(bpe, texts, content):
    ids = {
        "words": bpe.encode("".join(texts[:40])),
        "invalid": [bpe.encode("é")[-1]] * 6000,
        "special": [*bpe.encode("a"), *[bpe.eos_token_id] * 6000],
    }[content]
    decoder = IncrementalDecoder(bpe)
    longest = 0
    for index in ids:
        decoder.push(index)
        longest = max(longest, len(decoder._window))
    assert longest <= 20
