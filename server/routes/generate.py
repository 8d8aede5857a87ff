"""/generate and /batch_generate: a prompt and its continuation, in a body smaller than OpenAI's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.answers import collect, stream
from server.authentication import tenant_of
from server.lifecycle import registry_of
from server.schemas.generate import BatchGenerateBody, GenerateBody

if TYPE_CHECKING:
    from server.generation import Generation, Result


async def generate(request: Request) -> Response:
    body = await GenerateBody.read(request)
    model = registry_of(request).default
    requests = await model.prepare([body.prompt], body, tenant=tenant_of(request))
    generation = model.generate(requests, stop=body.stop_strings)
    if body.stream:
        return await stream(request, generation, _events)
    [result] = await collect(request, generation)
    return JSONResponse(_completed(body.prompt, result))


async def batch_generate(request: Request) -> Response:
    body = await BatchGenerateBody.read(request)
    model = registry_of(request).default
    requests = await model.prepare(body.prompts, body, tenant=tenant_of(request))
    generation = model.generate(requests, stop=body.stop_strings)
    results = await collect(request, generation)
    return JSONResponse({"results": [_completed(*pair) for pair in zip(body.prompts, results, strict=True)]})


async def _events(generation: Generation) -> AsyncIterator[dict[str, Any]]:
    async for _, piece in generation:
        if piece.text:
            yield {"text": piece.text}
    [choice] = generation.choices
    yield {"finish_reason": choice.stats.finish_reason, "token_count": choice.stats.generated_tokens}


def _completed(prompt: str, result: Result) -> dict[str, Any]:
    return {
        "generated_text": prompt + result.text,
        "token_count": result.token_count,
        "finish_reason": result.finish_reason,
    }
