"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.answers import collect, stream
from server.schemas.openai import ChatBody

if TYPE_CHECKING:
    from server.generation import Generation


async def chat_completions(request: Request) -> Response:
    body = await ChatBody.read(request)
    engine = request.app.state.lifecycle.engine
    chat = engine.chat_format
    prompt = chat.render([message.for_template() for message in body.messages])
    generation = engine.generate(await engine.prepare([prompt], body), (*body.stop_strings, *chat.stop))
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    if body.stream:
        return await stream(request, generation, lambda generation: _chunks(generation, head, body, chat.prefix))
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": result.text.removeprefix(chat.prefix)},
            "finish_reason": result.finish_reason,
        }
        for index, result in enumerate(await collect(request, generation))
    ]
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": generation.usage()})


async def _chunks(
    generation: Generation, head: dict[str, Any], body: ChatBody, prefix: str
) -> AsyncIterator[dict[str, Any]]:
    """The role of each choice, its text, its end; at last, when it was asked for, the usage."""
    head = {**head, "object": "chat.completion.chunk", **({"usage": None} if body.include_usage else {})}

    def chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}

    announced: set[int] = set()
    begun: set[int] = set()
    async for index, piece in generation:
        if index not in announced:
            announced.add(index)
            yield chunk(index, {"role": "assistant", "content": ""})
        text = piece.text if index in begun else piece.text.removeprefix(prefix)
        if piece.text:
            begun.add(index)
        if text:
            yield chunk(index, {"content": text})
        if piece.finish_reason:
            yield chunk(index, {}, piece.finish_reason)
    if body.include_usage:
        yield {**head, "choices": [], "usage": generation.usage()}
