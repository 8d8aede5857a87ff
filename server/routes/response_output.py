"""The output of a response, item by item, with the events that OpenAI's Responses API has for each piece of it."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from server.generation.logprobs import chat_logprobs
from server.http.answers import Json, StreamFormat

if TYPE_CHECKING:
    from server.generation.deltas import Delta, LoggedToken, ToolCallDelta
    from server.generation.generation import Generation
    from server.http.errors import ApiError
    from server.schemas.responses import ResponseBody


class ResponseOutput:
    """Grows by deltas. The last item is open until something else begins, or the response ends.

    Attributes:
        items: as the response has them.
        finish_reason: of the choice, when it has ended.
    """

    def __init__(self, *, has_logprobs: bool = False) -> None:
        self.items: list[Json] = []
        self.finish_reason: str | None = None
        self._has_logprobs = has_logprobs
        self._open: Json | None = None

    def push(self, delta: Delta) -> Iterator[Json]:
        """The events of a delta, without sequence numbers."""
        if delta.text or delta.logprobs:
            yield from self._text(delta.text, delta.logprobs)
        for call in delta.tool_calls:
            yield from self._call(call)
        if delta.finish_reason:
            self.finish_reason = delta.finish_reason
            if not self.items:
                yield from self._text("", ())
            yield from self._close("incomplete" if delta.finish_reason == "length" else "completed")

    def _text(self, text: str, tokens: Iterable[LoggedToken]) -> Iterator[Json]:
        if self._open is None or self._open["type"] != "message":
            yield from self._close("completed")
            part: Json = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item: Json = {
                "type": "message",
                "id": _id("msg"),
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            yield from self._add(item)
            yield {"type": "response.content_part.added", **self._place, "content_index": 0, "part": dict(part)}
            item["content"] = [part]
        assert self._open
        [part] = self._open["content"]
        logprobs = chat_logprobs(tokens)["content"] if self._has_logprobs else []
        part["text"] += text
        part["logprobs"] += logprobs
        if text or logprobs:
            delta = {"content_index": 0, "delta": text, "logprobs": logprobs}
            yield {"type": "response.output_text.delta", **self._place, **delta}

    def _call(self, call: ToolCallDelta) -> Iterator[Json]:
        if call.id is not None:
            yield from self._close("completed")
            named = {"call_id": call.id, "name": call.name, "arguments": ""}
            yield from self._add({"type": "function_call", "id": _id("fc"), "status": "in_progress", **named})
        assert self._open
        if call.arguments:
            self._open["arguments"] += call.arguments
            yield {"type": "response.function_call_arguments.delta", **self._place, "delta": call.arguments}

    def _add(self, item: Json) -> Iterator[Json]:
        self.items.append(item)
        self._open = item
        yield {"type": "response.output_item.added", "output_index": self._place["output_index"], "item": dict(item)}

    def _close(self, status: str) -> Iterator[Json]:
        item = self._open
        if item is None:
            return
        item["status"] = status
        if item["type"] == "message":
            [part] = item["content"]
            whole = {"content_index": 0, "text": part["text"], "logprobs": part["logprobs"]}
            yield {"type": "response.output_text.done", **self._place, **whole}
            yield {"type": "response.content_part.done", **self._place, "content_index": 0, "part": part}
        else:
            whole = {"name": item["name"], "arguments": item["arguments"]}
            yield {"type": "response.function_call_arguments.done", **self._place, **whole}
        yield {"type": "response.output_item.done", "output_index": self._place["output_index"], "item": item}
        self._open = None

    @property
    def _place(self) -> Json:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}


class ResponseEvents(StreamFormat):
    """The events of a response, numbered."""

    is_named = True
    is_terminated = False

    def __init__(self, response: Response, generation: Generation) -> None:
        self._response = response
        self._generation = generation
        self._number = 0

    def begin(self) -> Iterator[Json]:
        for name in ("response.created", "response.in_progress"):
            yield self._numbered({"type": name, "response": self._response.body(None)})

    def delta(self, index: int, delta: Delta) -> Iterator[Json]:
        obfuscates = self._response.request.stream_options and self._response.request.stream_options.include_obfuscation
        for event in self._response.output.push(delta):
            filling = {"obfuscation": secrets.token_urlsafe(secrets.randbelow(16))} if "delta" in event else {}
            yield self._numbered(event | filling if obfuscates else event)

    def end(self) -> Iterator[Json]:
        body = self._response.body(self._generation)
        yield self._numbered({"type": f"response.{body['status']}", "response": body})

    def error(self, error: ApiError) -> Iterator[Json]:
        fields = error.body()["error"]
        about = {name: fields[name] for name in ("code", "message", "param")}
        yield self._numbered({"type": "error", **about, "error": fields})

    def _numbered(self, event: Json) -> Json:
        numbered = {**event, "sequence_number": self._number}
        self._number += 1
        return numbered


class Response:
    """A response, from its creation to its end.

    Attributes:
        request: what it answers.
    """

    def __init__(self, request: ResponseBody, model: str, created_at: int) -> None:
        self.request = request
        self.output = ResponseOutput(has_logprobs=request.alternatives is not None)
        self._head = {"id": _id("resp"), "object": "response", "created_at": created_at, "model": model}

    def body(self, generation: Generation | None) -> Json:
        """The response object: with the usage of `generation` where it has ended, else as it begins."""
        reason = self.output.finish_reason
        status = {None: "in_progress", "length": "incomplete"}.get(reason, "completed")
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None,
            "output": self.output.items if generation else [],
            "usage": _usage(generation) if generation else None,
            **_echo(self.request),
        }


def _echo(request: ResponseBody) -> Json:
    """What a response repeats of its request."""
    sent: Any = request.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return {
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": request.reasoning.effort, "summary": request.reasoning.summary},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": request.temperature,
        "text": {"format": {"type": "text"}, "verbosity": "medium", **sent.get("text", {})},
        "tool_choice": sent.get("tool_choice", "auto"),
        "tools": [{**tool, "strict": tool.get("strict", True)} for tool in sent.get("tools", [])],
        "top_logprobs": request.top_logprobs,
        "top_p": 1.0 if request.top_p is None else request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }


def _usage(generation: Generation) -> Json:
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + completion,
    }


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"
