"""Prompt lookup (speculative decoding): draft tokens from an earlier occurrence of the text's last n-gram.

The method is Saxena's "prompt lookup decoding" (2023): no draft model, only the request's own text. It pays where text
repeats (editing, quoting, code), so drafts are offered only while predictions come true.
"""

from collections.abc import Sequence

NGRAM = 3  # tokens that must recur; shorter n-grams recur by chance
_MIN_STREAK = 2  # predictions in a row that must have come true before a draft is offered


class PromptLookup:
    """Drafts the next tokens of one text, which grows at its end. New tokens are read when a draft is asked for."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._read = 0
        self._end_of: dict[tuple[int, ...], int] = {}  # an n-gram -> the index behind its last occurrence
        self._source: int | None = None  # index of the token that is predicted to come next
        self._streak = 0

    def draft(self, length: int) -> list[int]:
        """Up to `length` tokens; none unless the last predictions came true."""
        while self._read < len(self._tokens):
            self._read_one()
        if self._source is None or self._streak < _MIN_STREAK:
            return []
        period = len(self._tokens) - self._source
        draft = list(self._tokens[self._source : self._source + length])
        while len(draft) < length:  # the repetition reaches the end of the text: it continues with the draft itself
            draft.append(draft[len(draft) - period])
        return draft

    def _read_one(self) -> None:
        """Reads the next token and compares it with its prediction."""
        source, end = self._source, self._read + 1
        came_true = source is not None and self._tokens[source] == self._tokens[self._read]
        self._streak = self._streak + 1 if came_true else 0
        gram = tuple(self._tokens[max(0, end - NGRAM) : end])
        # A prediction that came true continues from its source; otherwise the latest occurrence of the n-gram is taken.
        self._source = source + 1 if came_true and source is not None else self._end_of.get(gram)
        if end >= NGRAM:
            self._end_of[gram] = end
        self._read = end
