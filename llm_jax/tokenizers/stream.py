"""Text from ids that arrive one by one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_jax.tokenizers.base import Tokenizer

UNDECIDED = "\ufffd"  # how decoders show bytes that are no whole character (yet)
LONGEST_WAIT = 8  # tokens; a character is at most four bytes, hence four tokens, so this is patience enough
LONGEST_PREFIX = 3  # bytes that can begin a character without ending it


class IncrementalDecoder:
    """Turns ids into text as they come, whole characters only.

    The pieces and the flush joined are decode(all ids). Decoding a lone id would lose what depends on its neighbours
    (the space before a word, a character split over tokens), so each push decodes a short window: the ids of the
    piece before, and the new ones. The cost of a push does not grow with the length of the text.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._settled = 0  # ids of the window whose text has all been returned
        self._shown = 0  # characters of the window's text that have been returned

    def push(self, token_id: int) -> str:
        """The text that is certain after this id; "" while a character is incomplete."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        held = len(text) - len(text.rstrip(UNDECIDED))
        if len(self._window) - self._settled > LONGEST_WAIT:  # then most of it is invalid for good
            held = min(held, LONGEST_PREFIX)
        end = len(text) - held
        piece = text[self._shown : end]
        self._shown = max(self._shown, end)
        if not held and not piece and text:
            self._window.pop()  # a special token: it has no text, and changes none
        elif not held:
            self._move_window(self._window[self._settled :], held=0)
        elif len(self._window) > 2 * LONGEST_WAIT:
            self._move_window(self._window[-LONGEST_WAIT:], held)
        return piece

    def flush(self) -> str:
        """What is still held back, decoded as it stands; the decoder is then as new."""
        rest = self._tokenizer.decode(self._window)[self._shown :]
        self._window, self._settled, self._shown = [], 0, 0
        return rest

    def _move_window(self, ids: list[int], held: int) -> None:
        """Go on with the last ids alone, provided they have text: what follows is decoded behind that text."""
        text = self._tokenizer.decode(ids)
        if len(text) > held:
            self._window = ids
            self._shown = len(text) - held
        self._settled = 0 if held else len(self._window)
