"""Streaming decoding: text from ids that arrive one by one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_jax.tokenizers.base import Tokenizer

REPLACEMENT = "\ufffd"  # what decoders return for bytes of an incomplete or invalid character
MAX_PENDING_TOKENS = 8  # a character has at most four bytes, hence four tokens; twice that is invalid
MAX_CHARACTER_TOKENS = 4
CONTEXT_TOKENS = 8  # enough to know what precedes the text, for instance whether it begins with a space


class IncrementalDecoder:
    """Decodes ids one by one to pieces of text that are whole characters.

    All pieces and the flush, joined, are decode(all ids). The text of an id depends on its neighbours (the space before
    a word, a character split over tokens), so each push decodes a short window: the ids of the previous piece, and the
    new ones. The cost of a push does not grow with the length of the text.

    Args:
        context: ids before the first one that is pushed, such as a prompt's. Their text is not returned; where they end
            within a character, the character is once it is complete.
    """

    def __init__(self, tokenizer: "Tokenizer", context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        start = max(0, len(context) - CONTEXT_TOKENS)
        while start > 0 and context[start] in tokenizer.byte_ids:
            start -= 1  # a run of bytes is decoded as a whole
        self._window = [index for index in context[start:] if index < tokenizer.vocab_size]
        self._settled = len(self._window)  # ids of the window whose whole text has been returned
        # Text of the window that has been returned, or is the context's: without a character that it ends within, which
        # is `_incomplete` signs of an invalid one if it is not completed.
        text = tokenizer.decode(self._window)
        self._incomplete = len(text) - len(text.rstrip(REPLACEMENT))
        ends = range(len(self._window), max(len(self._window) - MAX_CHARACTER_TOKENS, -1), -1)
        prefixes = (tokenizer.decode(self._window[:end]) for end in ends)
        self._returned = next((prefix for prefix in prefixes if not prefix.endswith(REPLACEMENT)), text)

    def push(self, token_id: int) -> str:
        """The text that this id completes; "" while a character is incomplete."""
        if token_id >= self._tokenizer.vocab_size:
            return ""  # it only pads the model's vocabulary
        self._window.append(token_id)
        if token_id in self._tokenizer.byte_ids:
            return ""  # a run of bytes is text, or invalid, as a whole: its end has to be known
        if len(self._window) - 1 > self._settled and not self._tokenizer.decode([token_id, token_id]):
            self._window.pop()  # a special token, which has no text, ends neither a run nor a character
            return ""
        text = self._tokenizer.decode(self._window)
        pending = int(text.endswith(REPLACEMENT))  # one, however many bytes of a character there are
        piece = self._new(text[: len(text) - pending])
        if not pending and not piece and text:
            self._window.pop()
        elif not pending:
            self._move_window(self._window[self._settled :], pending)
        elif len(self._window) > 2 * MAX_PENDING_TOKENS:
            self._move_window(self._window[-MAX_PENDING_TOKENS:], pending)
        return piece

    def flush(self) -> str:
        """The text of the pending ids, complete or not; resets the decoder."""
        rest = self._new(self._tokenizer.decode(self._window))
        self._window, self._settled, self._returned = [], 0, ""
        return rest

    def _new(self, text: str) -> str:
        """What the window's text has beyond the text that has been returned."""
        before = self._returned
        if before.startswith(text):
            return ""
        # Ids may complete the context's last character, or turn its last bytes invalid, each of them one sign.
        same = next((at for at, pair in enumerate(zip(before, text, strict=False)) if pair[0] != pair[1]), len(before))
        changed, rest = before[same:].encode(), text[same:]
        invalid = len(rest) - len(rest.lstrip(REPLACEMENT))
        of_context = min(invalid, max(len(changed), self._incomplete))
        self._returned, self._incomplete = text, 0
        return rest[of_context:]

    def _move_window(self, ids: list[int], pending: int) -> None:
        """Shortens the window to its last ids, provided that they have text: later ids are decoded after that text."""
        text = self._tokenizer.decode(ids)
        if len(text) > pending:
            self._window = ids
            self._returned = text[: len(text) - pending]
        self._settled = 0 if pending else len(self._window)
