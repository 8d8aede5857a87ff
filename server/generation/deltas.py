"""What answers are made of, in no wire format: deltas as they come, and choices when they have ended.

Routes turn them into the bodies and events of their API; see `server.http.answers`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token as clients are shown it.

    Attributes:
        text: its text; where it is a part of a character, its bytes as in \\xf0\\x9f.
        data: its bytes, as they are.
        is_partial: whether they are only a part of a character, or no text at all.
    """

    id: int
    text: str
    data: bytes
    logprob: float | None
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class LoggedToken:
    """A token of the text, with its log-probability.

    Attributes:
        offset: where its text begins, in characters from the beginning of the choice's text.
        alternatives: the most likely tokens in its place, most likely first.
    """

    token: TokenText
    offset: int
    alternatives: tuple[TokenText, ...]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call. The first one of a call has its id and its name."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """What a choice gains at a time.

    Attributes:
        logprobs: the tokens of the text, where they are asked for.
        prompt: the tokens of the prompt, where they are asked for, with the first delta.
        finish_reason: set on a choice's last delta.
        stop: the stop string that ended the choice.
    """

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[LoggedToken, ...] = ()
    prompt: tuple[LoggedToken, ...] = ()
    finish_reason: FinishReason | None = None
    stop: str | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.tool_calls or self.logprobs or self.prompt or self.finish_reason)


@dataclass
class ToolCall:
    """A tool call, whole. `arguments` is JSON."""

    id: str
    name: str
    arguments: str = ""


@dataclass
class Choice:
    """An answer, whole."""

    text: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[LoggedToken] = field(default_factory=list)
    prompt: list[LoggedToken] = field(default_factory=list)
    finish_reason: FinishReason = "stop"
    stop: str | None = None

    @classmethod
    def of(cls, deltas: Iterable[Delta]) -> Choice:
        texts: list[str] = []
        choice = cls()
        for delta in deltas:
            texts.append(delta.text)
            choice.logprobs += delta.logprobs
            choice.prompt += delta.prompt
            for call in delta.tool_calls:
                if call.id is not None and call.name is not None:
                    choice.tool_calls.append(ToolCall(call.id, call.name))
                choice.tool_calls[call.index].arguments += call.arguments
            choice.finish_reason, choice.stop = delta.finish_reason or choice.finish_reason, delta.stop
        choice.text = "".join(texts)
        return choice

    def as_delta(self) -> Delta:
        """All of it at once."""
        calls = [ToolCallDelta(index, call.arguments, call.id, call.name) for index, call in enumerate(self.tool_calls)]
        return Delta(self.text, tuple(calls), tuple(self.logprobs), tuple(self.prompt), self.finish_reason, self.stop)
