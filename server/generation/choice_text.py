"""One choice's tokens as deltas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llm_jax.inference import TextStream, TokenEvent
from llm_jax.tokenizers import Tokenizer
from server.generation.deltas import Delta, FinishReason, LoggedToken, ToolCallDelta
from server.generation.token_log import TokenLog

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class CallParser(Protocol):
    """Finds the tool calls in a text that arrives in pieces."""

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The text that is none of a call, and what calls gained."""

    def end(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """What has been withheld."""

    @property
    def has_calls(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How a choice's text is reported.

    Attributes:
        stop: strings before which it ends.
        prefix: removed from its beginning, where it has it.
        echo: what is put before it. With the log-probabilities of a prompt, that prompt's text.
        logs: whether log-probabilities of its tokens are reported.
        logs_prompt: whether those of the prompt's tokens are.
        logs_end: whether the token that ends it is reported too.
        min_tokens: how many tokens it has at least, stop strings or not.
        shown: special tokens that are text, id to written form.
        is_empty: whether no token of it is wanted.
    """

    stop: tuple[str, ...] = ()
    prefix: str = ""
    echo: str = ""
    logs: bool = False
    logs_prompt: bool = False
    logs_end: bool = False
    min_tokens: int = 0
    is_empty: bool = False
    shown: Mapping[int, str] = field(default_factory=dict)


class ChoiceText:
    """Turns the tokens of one choice into deltas."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        options: TextOptions,
        calls: CallParser | None = None,
    ) -> None:
        self.is_empty = options.is_empty
        self._tokenizer, self._prompt_ids, self._options, self._calls = tokenizer, prompt_ids, options, calls
        self._text = TextStream(
            tokenizer,
            options.stop,
            prompt_ids=prompt_ids,
            prefix=options.prefix,
            min_tokens=options.min_tokens,
            shown=options.shown,
        )
        self._log: TokenLog | None = None
        self._is_begun = False

    def push(self, event: TokenEvent) -> Delta:
        """What can be sent after this token. After a delta with a finish_reason, push no more."""
        echo, prompt = ("", ()) if self._is_begun else self._begin(event)
        if self.is_empty:
            return Delta(echo, prompt=prompt, finish_reason="length")
        piece = self._text.push(event)
        if self._log:
            self._log.push(event)
        text, calls = self._parsed(piece.text, is_last=piece.finish_reason is not None)
        reason: FinishReason | None = piece.finish_reason
        if reason == "stop" and self._calls and self._calls.has_calls:
            reason = "tool_calls"
        logprobs = self._log.release(len(text), is_last=reason is not None) if self._log else ()
        if calls:
            self._log = None  # what follows is no text whose tokens could be told apart
        return Delta(echo + text, calls, logprobs, prompt, reason, piece.stop)

    def _begin(self, event: TokenEvent) -> tuple[str, tuple[LoggedToken, ...]]:
        """What comes before the text: the echo, and the tokens of the prompt."""
        self._is_begun = True
        options = self._options
        echo = options.echo
        prompt: tuple[LoggedToken, ...] = ()
        if options.logs_prompt:
            text, prompt = TokenLog.of_prompt(
                self._tokenizer, self._prompt_ids, [(token.logprob, token.top) for token in event.prompt]
            )
            echo = text if echo else ""
        if options.logs:
            self._log = TokenLog(
                self._tokenizer,
                self._prompt_ids,
                prefix=options.prefix,
                offset=len(echo),
                with_end=options.logs_end,
                shown=options.shown,
            )
        return echo, prompt

    def _parsed(self, text: str, *, is_last: bool) -> tuple[str, tuple[ToolCallDelta, ...]]:
        if self._calls is None:
            return text, ()
        content, calls = self._calls.push(text)
        if is_last:
            rest, last = self._calls.end()
            content, calls = content + rest, calls + last
        return content, calls
