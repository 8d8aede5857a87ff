from hypothesis import given
from hypothesis import strategies as st

from llm_jax.inference.lookup import NGRAM, PROOF, PromptLookup


def test_it_offers_what_stood_behind_the_same_words_once_it_has_proved_right() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8]
    lookup = PromptLookup([*text, 0, 1, 2, 3])
    assert lookup.draft(3) == []  # no guess was checked yet
    lookup.push(4)
    lookup.push(5)
    assert lookup.draft(3) == [6, 7, 8]
    lookup.push(99)
    assert lookup.draft(3) == []


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_draft_follows_an_earlier_occurrence_of_the_last_tokens(tokens: list[int]) -> None:
    lookup = PromptLookup(tokens)
    draft = lookup.draft(5)
    if draft:
        places = [i for i in range(len(tokens) - NGRAM) if tokens[i : i + NGRAM] == tokens[-NGRAM:]]
        assert any(tokens[i + NGRAM : i + NGRAM + 5] == draft for i in places)
        assert len(tokens) > NGRAM + PROOF
