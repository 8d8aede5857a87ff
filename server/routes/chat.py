"""POST /v1/chat/completions."""

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
from server.schemas.openai import ChatBody

if TYPE_CHECKING:
    from server.generation import Generation


async def chat_completions(request: Request) -> Response:
    body = await ChatBody.read(request)
    model = registry_of(request).resolve(body.model)
    chat = model.chat_format
    prompt = chat.render([message.for_template() for message in body.messages])
    requests = await model.prepare([prompt], body, tenant=tenant_of(request))
    generation = model.generate(requests, stop=(*body.stop_strings, *chat.stop), prefix=chat.prefix)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model or model.name}
    if body.user:
        request.scope["log_fields"]["user"] = body.user
    if body.stream:
        return await stream(request, generation, lambda generation: _chunks(generation, head, body))
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": result.text},
            "finish_reason": result.finish_reason,
        }
        for index, result in enumerate(await collect(request, generation))
    ]
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": generation.usage()})


async def _chunks(generation: Generation, head: dict[str, Any], body: ChatBody) -> AsyncIterator[dict[str, Any]]:
    """The role of each choice, its text, its end; at last, when it was asked for, the usage."""
    head = {**head, "object": "chat.completion.chunk", **({"usage": None} if body.include_usage else {})}

    def chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}

    announced: set[int] = set()
    async for index, piece in generation:
        if index not in announced:
            announced.add(index)
            yield chunk(index, {"role": "assistant", "content": ""})
        if piece.text:
            yield chunk(index, {"content": piece.text})
        if piece.finish_reason:
            yield chunk(index, {}, piece.finish_reason)
    if body.include_usage:
        yield {**head, "choices": [], "usage": generation.usage()}
