"""Text in and out of the engine: stop strings, whole characters, the documented rules of generate()."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_jax.config import ModelConfig
from llm_jax.errors import RequestError, UnknownToken
from llm_jax.inference import (
    ContextLengthExceeded,
    SamplingParams,
    TextStream,
    TokenEvent,
    batch_generate,
    generate,
    prepare_request,
    stream_generate,
)
from llm_jax.model import Model, init_params
from llm_jax.tokenizers import BPETokenizer, CharacterTokenizer

LETTERS = CharacterTokenizer(["abcdefghij \n"])
STORY = "The 🐻 said 你好 to the owl — très bien. 🇫🇷👩‍👩‍👧 " * 3
BPE = BPETokenizer.train([STORY], vocab_size=270)
PROMPTS = ["a", "bad cab", "jig " * 40, "hi\n", "abcdefghij"]


@pytest.fixture(scope="module")
def letters_model() -> Model:
    config = ModelConfig(
        vocab_size=LETTERS.vocab_size, hidden_size=32, num_layers=2, num_heads=4, max_seq_len=96, dropout=0.0
    )
    return Model(config, {k: v * (8 if v.ndim > 1 else 1) for k, v in init_params(config, 3).items()})


def stream_text(tokenizer: object, ids: list[int], stop: list[str], last: str = "length") -> tuple[list[str], str, int]:
    stream, pieces = TextStream(tokenizer, stop), []
    for n, token in enumerate(ids):
        piece = stream.push(TokenEvent(token, finish=last if n == len(ids) - 1 else None))
        pieces.append(piece.text)
        if piece.finish_reason:
            return pieces, piece.finish_reason, stream.token_count
    raise AssertionError("no finish reason on the last piece")


def test_characters_split_over_tokens_arrive_whole() -> None:
    ids = BPE.encode(STORY)
    assert any("\ufffd" in BPE.decode([i]) for i in ids)  # some tokens are parts of characters
    pieces, reason, count = stream_text(BPE, ids, [])
    assert "".join(pieces) == STORY
    assert not any("\ufffd" in piece for piece in pieces)
    assert (reason, count) == ("length", len(ids))


@given(
    text=st.text("abcdefghij", min_size=1, max_size=40),
    stop=st.lists(st.text("abcdefghij", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_where_a_search_of_the_whole_text_would(text: str, stop: list[str]) -> None:
    pieces, reason, count = stream_text(LETTERS, LETTERS.encode(text), stop)
    # The earliest moment at which any stop string is complete decides; then the leftmost match in what is there.
    end = min((text.find(s) + len(s) for s in stop if s in text), default=None)
    if end is None:
        assert ("".join(pieces), reason, count) == (text, "length", len(text))
    else:
        assert "".join(pieces) == text[: min(text[:end].find(s) for s in stop if s in text[:end])]
        assert (reason, count) == ("stop", end)


def test_a_stop_string_over_token_borders_never_shows_its_beginning() -> None:
    ids = BPE.encode("The bear said no")
    pieces, reason, _ = stream_text(BPE, ids, ["ear sa"])
    assert ("".join(pieces), reason) == ("The b", "stop")


def test_withheld_text_comes_out_when_it_was_no_stop_string() -> None:
    pieces, reason, _ = stream_text(LETTERS, LETTERS.encode("abab"), ["abc"])
    assert ("".join(pieces), reason) == ("abab", "length")


@pytest.mark.parametrize("stop", [[], ["abc"]])
@pytest.mark.parametrize(("text", "expected"), [("abab", "bab"), ("aab", "ab"), ("bab", "bab"), ("a", "")])
def test_a_prefix_is_removed_once_where_the_text_begins_with_it(text: str, expected: str, stop: list[str]) -> None:
    stream, ids = TextStream(LETTERS, stop, prefix="a"), LETTERS.encode(text)
    events = [TokenEvent(token, finish="length" if n == len(ids) else None) for n, token in enumerate(ids, 1)]
    assert "".join(stream.push(event).text for event in events) == expected


def test_a_stop_id_gives_no_text() -> None:
    pieces, reason, count = stream_text(LETTERS, LETTERS.encode("abc"), [], last="stop")
    assert ("".join(pieces), reason, count) == ("ab", "stop", 3)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_text_of_a_batch_equals_that_prompt_alone(letters_model: Model, temperature: float) -> None:
    together = batch_generate(letters_model, LETTERS, PROMPTS, 20, temperature, top_p=0.9, seed=1)
    alone = [generate(letters_model, LETTERS, p, 20, temperature, top_p=0.9, seed=1) for p in PROMPTS]
    assert together == alone
    assert all(text.startswith(p) for p, text in zip(PROMPTS, together, strict=True))
    assert batch_generate(letters_model, LETTERS, [], 20) == []


def test_the_stream_is_the_completion(letters_model: Model) -> None:
    for prompt in PROMPTS:
        whole = generate(letters_model, LETTERS, prompt, 15, 0.8, seed=2)
        assert prompt + "".join(stream_generate(letters_model, LETTERS, prompt, 15, 0.8, seed=2)) == whole


def test_cached_equals_uncached_and_greedy_equals_top_k_one(letters_model: Model) -> None:
    for prompt in PROMPTS:
        greedy = generate(letters_model, LETTERS, prompt, 15, 0.0)
        assert generate(letters_model, LETTERS, prompt, 15, 0.0, use_cache=False) == greedy
        assert generate(letters_model, LETTERS, prompt, 15, 1.3, top_k=1) == greedy


def test_seeds_repeat_and_differ(letters_model: Model) -> None:
    texts = {seed: generate(letters_model, LETTERS, "abc", 30, seed=seed) for seed in range(4)}
    assert len(set(texts.values())) == 4
    assert all(generate(letters_model, LETTERS, "abc", 30, seed=s) == text for s, text in texts.items())
    assert generate(letters_model, LETTERS, "abc", 30) != generate(letters_model, LETTERS, "abc", 30)


def test_a_long_prompt_keeps_its_right_end_for_the_model(letters_model: Model) -> None:
    prompt = "".join(np.random.default_rng(0).choice(list("abcdefghij"), 300))
    text = generate(letters_model, LETTERS, prompt, 16, 0.0)
    assert text.startswith(prompt)
    assert text[300:] == generate(letters_model, LETTERS, prompt[-80:], 16, 0.0)[80:]


def test_generation_ends_before_a_stop_string(letters_model: Model) -> None:
    plain = generate(letters_model, LETTERS, "abc", 30, 0.0)[3:]
    stop = plain[5:8]
    assert generate(letters_model, LETTERS, "abc", 30, 0.0, stop=stop) == "abc" + plain[: plain.index(stop)]
    assert generate(letters_model, LETTERS, "abc", 30, 0.0, stop=["never", stop]).endswith(plain[: plain.index(stop)])


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "words"),
    [
        ("", {}, RequestError, "prompt is empty"),
        ("aXb", {}, UnknownToken, "X"),
        ("a", {"max_new_tokens": 96}, ContextLengthExceeded, "at most 95"),
        ("a", {"max_new_tokens": 0}, RequestError, "max_new_tokens is 0; it must be at least 1"),
        ("a", {"top_p": 0.0}, RequestError, "top_p is 0.0"),
        ("a", {"temperature": -1.0}, RequestError, "temperature is -1.0"),
    ],
)
def test_what_cannot_be_generated_is_an_error_that_says_why(
    letters_model: Model, prompt: str, settings: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        generate(letters_model, LETTERS, prompt, **{"max_new_tokens": 5, **settings})
    with pytest.raises(error, match=words):
        stream_generate(letters_model, LETTERS, prompt, **{"max_new_tokens": 5, **settings})  # before any token


def test_without_truncation_a_long_prompt_is_refused(letters_model: Model) -> None:
    with pytest.raises(ContextLengthExceeded, match="91 tokens and max_new_tokens is 6"):
        prepare_request(letters_model.config, LETTERS, "a" * 91, SamplingParams(max_new_tokens=6), truncate=False)


def test_an_empty_prompt_starts_from_bos_where_there_is_one() -> None:
    config = ModelConfig(vocab_size=BPE.vocab_size, max_seq_len=64)
    assert BPE.bos_token_id is not None
    request = prepare_request(config, BPE, "", SamplingParams(), truncate=True)
    assert request.prompt_ids == (BPE.bos_token_id,)
    assert BPE.eos_token_id in request.sampling.stop_ids
