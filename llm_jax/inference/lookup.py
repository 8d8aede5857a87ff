"""Prompt lookup: guess what follows from where the same words stood before (n-gram speculation).

The method is Saxena's "prompt lookup decoding" (2023): no draft model, only the request's own text. It pays when
text repeats (editing, quoting, code), so the guesser watches itself and offers drafts only while it is right.
"""

from collections.abc import Sequence

NGRAM = 3  # tokens that must recur
PROOF = 2  # guesses in a row that must have been right before a draft is offered


class PromptLookup:
    """Watches one request's tokens and guesses the next ones."""

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # an n-gram -> the index behind its last occurrence
        self._source: int | None = None  # where the text that repeats goes on
        self._streak = 0
        for token in prompt_ids:
            self.push(token)

    def push(self, token: int) -> None:
        """Takes in the next token, and checks the guess that stood for it."""
        was_right = self._source is not None and self._tokens[self._source] == token
        self._streak = self._streak + 1 if was_right else 0
        self._tokens.append(token)
        end = len(self._tokens)
        gram = tuple(self._tokens[-NGRAM:])
        known = self._after.get(gram)
        # A guess that was right goes on where it stands; a new n-gram points to its latest occurrence.
        self._source = self._source + 1 if was_right and self._source is not None else known
        if end >= NGRAM:
            self._after[gram] = end

    def draft(self, length: int) -> list[int]:
        """Up to `length` guesses; none unless the last ones were right."""
        if self._source is None or self._streak < PROOF:
            return []
        return self._tokens[self._source : self._source + length]
