"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.answers import Json, StreamFormat, collect, stream
from server.authentication import tenant_of
from server.lifecycle import registry_of
from server.schemas.openai import ChatBody

if TYPE_CHECKING:
    from server.deltas import Choice, Delta
    from server.generation import Generation


async def chat_completions(request: Request) -> Response:
    body = await ChatBody.read(request)
    model = registry_of(request).resolve(body.model)
    generation = await model.chat(body.chat(), body, tenant=tenant_of(request))
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model or model.name}
    if body.user:
        request.scope["log_fields"]["user"] = body.user
    if body.stream:
        return await stream(request, generation, ChatChunks(head, body, generation))
    choices = [_choice(index, choice) for index, choice in enumerate(await collect(request, generation))]
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": generation.usage()})


class ChatChunks(StreamFormat):
    """The role of each choice, what it gains, its end; at last, when it was asked for, the usage."""

    def __init__(self, head: Json, body: ChatBody, generation: Generation) -> None:
        self._head = {**head, "object": "chat.completion.chunk", **({"usage": None} if body.include_usage else {})}
        self._include_usage = body.include_usage
        self._generation = generation
        self._announced: set[int] = set()

    def delta(self, index: int, delta: Delta) -> Iterator[Json]:
        if index not in self._announced:
            self._announced.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""})
        if delta.text:
            yield self._chunk(index, {"content": delta.text})
        if delta.finish_reason:
            yield self._chunk(index, {}, delta.finish_reason)

    def end(self) -> Iterator[Json]:
        if self._include_usage:
            yield {**self._head, "choices": [], "usage": self._generation.usage()}

    def _chunk(self, index: int, delta: Json, finish_reason: str | None = None) -> Json:
        return {**self._head, "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": choice.text},
        "finish_reason": choice.finish_reason,
    }
