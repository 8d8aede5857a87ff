"""Tokens of a choice with their log-probabilities, so that texts, bytes and offsets rebuild its text exactly."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llm_jax.inference import TokenEvent
from llm_jax.tokenizers import IncrementalDecoder, Tokenizer
from server.generation.deltas import LoggedToken, TokenText

Top = Iterable[tuple[int, float]]
_utf8 = codecs.getincrementaldecoder("utf-8")


@dataclass
class _Token:
    """A token that has not been given out. Its text is characters `offset` to `end`, known once `is_settled`."""

    id: int
    logprob: float | None
    top: Top
    data: bytes
    offset: int
    end: int
    is_settled: bool = False


class TokenLog:
    """Follows the tokens of one text, and gives them out as their text is.

    Args:
        context: the ids before the first token.
        prefix: removed from the beginning of the text, where it has it.
        offset: characters before the first token.
        with_end: whether a stop id is logged too; it has no text.
        shown: special tokens that are text, id to written form.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Sequence[int] = (),
        *,
        prefix: str = "",
        offset: int = 0,
        with_end: bool = False,
        shown: Mapping[int, str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._written = shown or {}
        self._hidden = {index: token for token, index in tokenizer.hidden_tokens.items()}
        self._decoder = IncrementalDecoder(tokenizer, context)
        self._prefix = prefix
        self._with_end = with_end
        self._pending: list[_Token] = []
        self._incomplete = b""  # the beginning of a character, from tokens that are settled
        self._length = self._released = offset

    @classmethod
    def of_prompt(
        cls, tokenizer: Tokenizer, ids: Sequence[int], logged: Sequence[tuple[float, Top]]
    ) -> tuple[str, tuple[LoggedToken, ...]]:
        """The text of a prompt, and its tokens; the first one has no log-probability.

        Args:
            logged: log-probability and alternatives of each token but the first.
        """
        log = cls(tokenizer)
        entries: list[tuple[float | None, Top]] = [(None, ()), *logged]
        for index, (logprob, top) in zip(ids, entries, strict=True):
            log._add(index, logprob, top, is_text=True)
        log._settle(log._decoder.flush())
        return tokenizer.decode(ids), log.release(log._length, is_last=True)

    def push(self, event: TokenEvent) -> None:
        """Takes the next token."""
        is_text = event.finish != "stop"
        if is_text or self._with_end:
            self._add(event.token, event.logprob, event.top_logprobs, is_text=is_text)
        if event.finish is not None:
            self._settle(self._decoder.flush())

    def release(self, characters: int, *, is_last: bool) -> tuple[LoggedToken, ...]:
        """The tokens of so many more characters of the text.

        The last time it is all, unless a stop string has ended the text: then the token that it begins in is cut.
        """
        self._released += characters
        shown = [t.is_settled and t.offset < t.end <= self._released for t in self._pending]
        count = len(shown) - shown[::-1].index(True) if True in shown else 0
        if is_last and self._length <= self._released:
            count = len(self._pending)
        elif is_last and count < len(shown) and self._pending[count].offset < self._released:
            token = self._pending[count]
            text = token.data.decode(errors="replace")[: self._released - token.offset]
            token.data, count = text.encode(), count + 1
        released, self._pending = self._pending[:count], self._pending[count:]
        return tuple(map(self._logged, released))

    def _add(self, index: int, logprob: float | None, top: Top, *, is_text: bool) -> None:
        written = self._written.get(index, "")
        has_text = is_text and (bool(written) or index not in self._hidden)
        data = (written.encode() or self._tokenizer.token_bytes(index)) if has_text else b""
        self._pending.append(_Token(index, logprob, top, data, self._length, self._length))
        if has_text:
            self._settle(self._decoder.push(index) + written)

    def _settle(self, text: str) -> None:
        """Shares new text among the tokens that it can come from."""
        tokens = [token for token in self._pending if not token.is_settled]
        if not text or not tokens:
            return
        text, self._prefix = text.removeprefix(self._prefix), ""
        utf8 = _utf8("replace")
        whole = utf8.decode(self._incomplete + b"".join(token.data for token in tokens))
        rest = utf8.getstate()[0]
        if whole != text:
            whole, rest = whole + utf8.decode(b"", final=True), b""
        if whole != text:
            _fit(text, tokens)
            self._incomplete = b""
        utf8 = _utf8("replace")
        at = self._length + len(utf8.decode(self._incomplete))
        for previous, token in zip([None, *tokens], tokens, strict=False):
            token.offset, at = at, at + len(utf8.decode(token.data))
            token.end, token.is_settled = at, True
            foreign = token.end - token.offset - len(_utf8("replace").decode(token.data))
            if previous is not None and foreign > 0:  # the sign of an invalid character, which only this token ended
                previous.end = token.offset = token.offset + foreign
        self._length += len(text)
        tokens[-1].end = self._length
        self._incomplete = rest

    def _logged(self, token: _Token) -> LoggedToken:
        own = self._shown(token.id, token.data, token.logprob)
        alternatives = tuple(
            own if index == token.id else self._shown(index, self._tokenizer.token_bytes(index), logprob)
            for index, logprob in token.top
        )
        return LoggedToken(own, token.offset, alternatives)

    def _shown(self, index: int, data: bytes, logprob: float | None) -> TokenText:
        if index in self._hidden:
            return TokenText(index, self._hidden[index], data, logprob)
        try:
            return TokenText(index, data.decode(), data, logprob)
        except UnicodeDecodeError:
            escaped = "".join(f"\\x{byte:02x}" for byte in data)
            return TokenText(index, escaped, data, logprob, is_partial=True)


def _fit(text: str, tokens: Sequence[_Token]) -> None:
    """Gives tokens other bytes than their own, so that they make the text.

    Decoders strip a space at the beginning of a text, for example. Bytes that are no text stay as they are.
    """
    own, data = b"".join(token.data for token in tokens), text.encode()
    if own.endswith(data):
        surplus = len(own) - len(data)
        for token in tokens:
            dropped = min(surplus, len(token.data))
            token.data, surplus = token.data[dropped:], surplus - dropped
    elif "\ufffd" not in text:
        for token in tokens:
            token.data = b""
        tokens[-1].data = data
