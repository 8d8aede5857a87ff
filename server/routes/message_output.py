"""A message of Anthropic's API, block by block, and its events."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic_core import from_json

from server.http.answers import Json, StreamFormat
from server.http.errors import anthropic_body

if TYPE_CHECKING:
    from server.generation.deltas import Choice, Delta, ToolCall
    from server.generation.generation import Generation
    from server.http.errors import ApiError
    from server.schemas.anthropic import MessagesBody

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class Message:
    """What all forms of a message share."""

    def __init__(self, request: MessagesBody, model: str, generation: Generation) -> None:
        self._request = request
        self._generation = generation
        self._head = {"id": f"msg_{uuid.uuid4().hex}", "type": "message", "role": "assistant", "model": model}

    def begun(self) -> Json:
        usage = {**self.usage(), "output_tokens": 0}
        return {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}

    def whole(self, choice: Choice) -> Json:
        texts = [{"type": "text", "text": choice.text}] if choice.text else []
        calls = [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call)} for call in choice.tool_calls
        ]
        return {**self._head, "content": texts + calls, **self.end(choice.as_delta()), "usage": self.usage()}

    def end(self, last: Delta) -> Json:
        """Why it ended."""
        stop = last.stop if last.stop in self._request.stop_strings else None
        reason = STOP_REASONS[last.finish_reason or "stop"] if stop is None else "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": stop}

    def usage(self) -> Json:
        """Tokens that were in the prefix cache are counted apart."""
        cached = self._generation.cached_tokens
        return {
            "input_tokens": self._generation.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._generation.completion_tokens,
        }


class MessageEvents(StreamFormat):
    """One block at a time: its start, what it gains, its stop."""

    is_named = True
    is_terminated = False

    def __init__(self, message: Message) -> None:
        self._message = message
        self._blocks = 0
        self._open: str | None = None  # type of the last block, while it grows
        self._last: Delta | None = None

    def begin(self) -> Iterator[Json]:
        yield {"type": "message_start", "message": self._message.begun()}

    def delta(self, index: int, delta: Delta) -> Iterator[Json]:
        if delta.text:
            if self._open != "text":
                yield from self._start({"type": "text", "text": ""})
            yield self._grow({"type": "text_delta", "text": delta.text})
        for call in delta.tool_calls:
            if call.id is not None:
                yield from self._start({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
            if call.arguments:
                yield self._grow({"type": "input_json_delta", "partial_json": call.arguments})
        if delta.finish_reason:
            self._last = delta

    def end(self) -> Iterator[Json]:
        yield from self._stop()
        assert self._last
        yield {"type": "message_delta", "delta": self._message.end(self._last), "usage": self._message.usage()}
        yield {"type": "message_stop"}

    def error(self, error: ApiError) -> Iterator[Json]:
        yield anthropic_body(error.body(), error.status)

    def _start(self, block: Json) -> Iterator[Json]:
        yield from self._stop()
        self._open = block["type"]
        self._blocks += 1
        yield {"type": "content_block_start", "index": self._blocks - 1, "content_block": block}

    def _grow(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._blocks - 1, "delta": delta}

    def _stop(self) -> Iterator[Json]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._blocks - 1}


def _input(call: ToolCall) -> Json:
    """The arguments as an object; of a call that was cut short, as far as they can be read."""
    try:
        arguments = from_json(call.arguments or "{}", allow_partial=True)
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}
