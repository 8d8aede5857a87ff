from hypothesis import given
from hypothesis import strategies as st

from llm_jax.inference.engine.prompt_lookup import NGRAM, PromptLookup


def test_a_draft_is_what_followed_the_same_tokens_once_predictions_came_true() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3]
    lookup = PromptLookup(text)
    assert lookup.draft(3) == []  # no prediction was compared yet
    text += [4, 5]
    assert lookup.draft(3) == [6, 7, 8]
    text.append(99)
    assert lookup.draft(3) == []


def test_a_short_repetition_continues_with_itself() -> None:
    assert PromptLookup([1, 2] * 5).draft(7) == [1, 2, 1, 2, 1, 2, 1]
    assert PromptLookup([7] * 8).draft(3) == [7, 7, 7]


@given(st.lists(st.integers(0, 3), max_size=60))
def test_a_draft_follows_an_earlier_occurrence_of_the_last_tokens(tokens: list[int]) -> None:
    draft = PromptLookup(tokens).draft(5)
    if draft:
        text = tokens + draft
        starts = [i for i in range(len(tokens) - NGRAM) if tokens[i : i + NGRAM] == tokens[-NGRAM:]]
        assert any(text[i + NGRAM : i + NGRAM + 5] == draft for i in starts)
