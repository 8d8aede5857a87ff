"""Streaming decoding: text from ids that arrive one by one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_jax.tokenizers.base import Tokenizer

REPLACEMENT = "\ufffd"  # what decoders return for bytes of an incomplete or invalid character
MAX_PENDING_TOKENS = 8  # a character has at most four bytes, hence four tokens; twice that is invalid
MAX_PENDING_BYTES = 3  # of an incomplete character


class IncrementalDecoder:
    """Decodes ids one by one to pieces of text that are whole characters.

    All pieces and the flush, joined, are decode(all ids). The text of an id depends on its neighbours (the space before
    a word, a character split over tokens), so each push decodes a short window: the ids of the previous piece, and the
    new ones. The cost of a push does not grow with the length of the text.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._settled = 0  # ids of the window whose whole text has been returned
        self._returned = 0  # characters of the window's text that have been returned

    def push(self, token_id: int) -> str:
        """The text that this id completes; "" while a character is incomplete."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        pending = len(text) - len(text.rstrip(REPLACEMENT))
        if len(self._window) - self._settled > MAX_PENDING_TOKENS:  # most of them are invalid bytes
            pending = min(pending, MAX_PENDING_BYTES)
        end = len(text) - pending
        piece = text[self._returned : end]
        self._returned = max(self._returned, end)
        if not pending and not piece and text:
            self._window.pop()  # a special token, which has no text
        elif not pending:
            self._move_window(self._window[self._settled :], pending=0)
        elif len(self._window) > 2 * MAX_PENDING_TOKENS:
            self._move_window(self._window[-MAX_PENDING_TOKENS:], pending)
        return piece

    def flush(self) -> str:
        """The text of the pending ids, complete or not; resets the decoder."""
        rest = self._tokenizer.decode(self._window)[self._returned :]
        self._window, self._settled, self._returned = [], 0, 0
        return rest

    def _move_window(self, ids: list[int], pending: int) -> None:
        """Shortens the window to its last ids, provided that they have text: later ids are decoded after that text."""
        text = self._tokenizer.decode(ids)
        if len(text) > pending:
            self._window = ids
            self._returned = len(text) - pending
        self._settled = 0 if pending else len(self._window)
