"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.generation.logprobs import chat_logprobs, prompt_logprobs
from server.generation.usage import StreamUsage
from server.http.answers import Json, StreamFormat, collect, stream
from server.http.authentication import account_of
from server.lifecycle import registry_of
from server.schemas.openai import ChatBody

if TYPE_CHECKING:
    from server.generation.deltas import Choice, Delta, ToolCallDelta
    from server.generation.generation import Generation


async def chat_completions(request: Request) -> Response:
    """The next message of a conversation. OpenAI's chat completions."""
    body = await ChatBody.read(request)
    model = registry_of(request).resolve(body.model)
    generation = await model.chat(body.chat(), body, account=account_of(request))
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model or model.name}
    request.scope["log_fields"].update(body.log_fields)
    if body.stream:
        return await stream(request, generation, ChatChunks(head, body, generation))
    choices = await collect(request, generation)
    entries = [_choice(index, choice, body) for index, choice in enumerate(choices)]
    answer = {**head, "object": "chat.completion", "choices": entries, "usage": generation.usage(prompts=1)}
    if body.prompt_logprobs is not None:
        answer["prompt_logprobs"] = prompt_logprobs(choices[0].prompt)
    return JSONResponse(answer)


class ChatChunks(StreamFormat):
    """The role of each choice, what it gains, its end; the usage as it was asked for."""

    def __init__(self, head: Json, body: ChatBody, generation: Generation) -> None:
        self._head = {**head, "object": "chat.completion.chunk"}
        self._body = body
        self._usage = StreamUsage(body.stream_options, generation, prompts=1)
        self._announced: set[int] = set()

    def delta(self, index: int, delta: Delta) -> Iterator[Json]:
        if index not in self._announced:
            self._announced.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""})
        if delta.text or delta.logprobs:
            yield self._chunk(index, {"content": delta.text}, logprobs=_logprobs(delta, self._body))
        if delta.tool_calls:
            yield self._chunk(index, {"tool_calls": [_call_delta(call) for call in delta.tool_calls]})
        if delta.finish_reason:
            yield self._chunk(index, {}, finish_reason=delta.finish_reason)

    def end(self) -> Iterator[Json]:
        for usage in self._usage.at_end():
            yield {**self._head, "choices": [], **usage}

    def _chunk(
        self, index: int, delta: Json, *, logprobs: Json | None = None, finish_reason: str | None = None
    ) -> Json:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice], **self._usage.of_chunk()}


def _call_delta(call: ToolCallDelta) -> Json:
    beginning = {} if call.id is None else {"id": call.id, "type": "function"}
    name = {} if call.name is None else {"name": call.name}
    return {"index": call.index, **beginning, "function": {**name, "arguments": call.arguments}}


def _choice(index: int, choice: Choice, body: ChatBody) -> Json:
    message: Json = {"role": "assistant", "content": choice.text}
    if choice.tool_calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in choice.tool_calls
        ]
    logprobs = _logprobs(choice, body)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def _logprobs(part: Choice | Delta, body: ChatBody) -> Json | None:
    return chat_logprobs(part.logprobs) if body.logprobs else None
