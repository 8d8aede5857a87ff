"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.http.answers import collect, stream
from server.http.authentication import account_of
from server.lifecycle import registry_of
from server.routes.message_output import Message, MessageEvents
from server.schemas.anthropic import CountTokensBody, MessagesBody


async def messages(request: Request) -> Response:
    """The next message of a conversation. Anthropic's messages."""
    body = await MessagesBody.read(request)
    model = registry_of(request).resolve(body.model)
    generation = await model.chat(body.chat(), body, account=account_of(request))
    if body.metadata.user_id:
        request.scope["log_fields"]["user"] = body.metadata.user_id
    message = Message(body, body.model or model.name, generation)
    if body.stream:
        return await stream(request, generation, MessageEvents(message))
    [choice] = await collect(request, generation)
    return JSONResponse(message.whole(choice))


async def count_tokens(request: Request) -> Response:
    """How many tokens a conversation's prompt has."""
    body = await CountTokensBody.read(request)
    model = registry_of(request).resolve(body.model)
    ids = await asyncio.to_thread(lambda: model.tokenizer.encode(model.chat_format.render(body.chat())))
    return JSONResponse({"input_tokens": len(ids)})
