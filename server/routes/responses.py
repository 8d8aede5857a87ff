"""POST /v1/responses."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import Response as HttpResponse

from server.http.answers import collect, stream
from server.http.authentication import account_of
from server.lifecycle import registry_of
from server.routes.response_output import Response, ResponseEvents
from server.schemas.responses import ResponseBody


async def responses(request: Request) -> HttpResponse:
    """The answer to a conversation, stored nowhere. OpenAI's responses."""
    body = await ResponseBody.read(request)
    model = registry_of(request).resolve(body.model)
    generation = await model.chat(body.chat(), body, account=account_of(request))
    request.scope["log_fields"].update(body.log_fields)
    response = Response(body, body.model or model.name, int(time.time()))
    if body.stream:
        return await stream(request, generation, ResponseEvents(response, generation))
    [choice] = await collect(request, generation)
    for _ in response.output.push(choice.as_delta()):
        pass
    return JSONResponse(response.body(generation))
