"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.answers import collect, stream
from server.authentication import tenant_of
from server.lifecycle import registry_of
from server.schemas.openai import CompletionBody

if TYPE_CHECKING:
    from server.generation import Generation


async def completions(request: Request) -> Response:
    body = await CompletionBody.read(request)
    model = registry_of(request).resolve(body.model)
    requests = await model.prepare(body.prompts, body, tenant=tenant_of(request))
    generation = model.generate(requests, stop=body.stop_strings)
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model or model.name,
    }
    if body.user:
        request.scope["log_fields"]["user"] = body.user
    if body.stream:
        return await stream(request, generation, lambda generation: _chunks(generation, head, body))
    choices = [
        _choice(index, result.text, result.finish_reason)
        for index, result in enumerate(await collect(request, generation))
    ]
    return JSONResponse({**head, "choices": choices, "usage": generation.usage()})


async def _chunks(generation: Generation, head: dict[str, Any], body: CompletionBody) -> AsyncIterator[dict[str, Any]]:
    head = {**head, **({"usage": None} if body.include_usage else {})}
    async for index, piece in generation:
        if piece.text or piece.finish_reason:
            yield {**head, "choices": [_choice(index, piece.text, piece.finish_reason)]}
    if body.include_usage:
        yield {**head, "choices": [], "usage": generation.usage()}


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}
