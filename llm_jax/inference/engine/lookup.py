"""Prompt lookup: guess what follows from where the same words stood before (n-gram speculation).

The method is Saxena's "prompt lookup decoding" (2023): no draft model, only the request's own text. It pays when
text repeats (editing, quoting, code), so the guesser watches itself and offers drafts only while it is right.
"""

from collections.abc import Sequence

NGRAM = 3  # tokens that must recur
PROOF = 2  # guesses in a row that must have been right before a draft is offered


class PromptLookup:
    """Guesses the next tokens of one text, which grows at its end. It reads what is new only when it is asked."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._read = 0
        self._after: dict[tuple[int, ...], int] = {}  # an n-gram -> the index behind its last occurrence
        self._source: int | None = None  # where the text that repeats goes on
        self._streak = 0

    def draft(self, length: int) -> list[int]:
        """Up to `length` guesses; none unless the last ones were right."""
        while self._read < len(self._tokens):
            self._read_one()
        if self._source is None or self._streak < PROOF:
            return []
        period = len(self._tokens) - self._source
        draft = list(self._tokens[self._source : self._source + length])
        while len(draft) < length:  # the repetition reaches the end of the text: it goes on with itself
            draft.append(draft[len(draft) - period])
        return draft

    def _read_one(self) -> None:
        """Takes in the next token, and checks the guess that stood for it."""
        source, end = self._source, self._read + 1
        was_right = source is not None and self._tokens[source] == self._tokens[self._read]
        self._streak = self._streak + 1 if was_right else 0
        gram = tuple(self._tokens[max(0, end - NGRAM) : end])
        # A guess that was right goes on where it stands; a new n-gram points to its latest occurrence.
        self._source = source + 1 if was_right and source is not None else self._after.get(gram)
        if end >= NGRAM:
            self._after[gram] = end
        self._read = end
