"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.answers import Json, StreamFormat, collect, stream
from server.authentication import tenant_of
from server.lifecycle import registry_of
from server.schemas.openai import CompletionBody

if TYPE_CHECKING:
    from server.deltas import Delta
    from server.generation import Generation


async def completions(request: Request) -> Response:
    body = await CompletionBody.read(request)
    model = registry_of(request).resolve(body.model)
    generation = await model.complete(body.prompts, body, tenant=tenant_of(request))
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model or model.name,
    }
    if body.user:
        request.scope["log_fields"]["user"] = body.user
    if body.stream:
        return await stream(request, generation, CompletionChunks(head, body, generation))
    choices = [
        _choice(index, choice.text, choice.finish_reason)
        for index, choice in enumerate(await collect(request, generation))
    ]
    return JSONResponse({**head, "choices": choices, "usage": generation.usage()})


class CompletionChunks(StreamFormat):
    """The text of each choice; at last, when it was asked for, the usage."""

    def __init__(self, head: Json, body: CompletionBody, generation: Generation) -> None:
        self._head = {**head, **({"usage": None} if body.include_usage else {})}
        self._include_usage = body.include_usage
        self._generation = generation

    def delta(self, index: int, delta: Delta) -> Iterator[Json]:
        yield {**self._head, "choices": [_choice(index, delta.text, delta.finish_reason)]}

    def end(self) -> Iterator[Json]:
        if self._include_usage:
            yield {**self._head, "choices": [], "usage": self._generation.usage()}


def _choice(index: int, text: str, finish_reason: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
