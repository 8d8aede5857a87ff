"""/generate and /batch_generate: a prompt and its continuation, in a body smaller than OpenAI's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.http.answers import Json, StreamFormat, collect, stream
from server.http.authentication import account_of
from server.lifecycle import registry_of
from server.schemas.generate import BatchGenerateBody, GenerateBody, GenerateFields

if TYPE_CHECKING:
    from server.generation.deltas import Delta
    from server.generation.generation import Generation


async def generate(request: Request) -> Response:
    """A prompt and its continuation."""
    body = await GenerateBody.read(request)
    generation = await _begin(request, [body.prompt], body)
    if body.stream:
        return await stream(request, generation, Pieces(generation))
    [result] = await _results(request, [body.prompt], generation)
    return JSONResponse(result)


async def batch_generate(request: Request) -> Response:
    """Several prompts and their continuations."""
    body = await BatchGenerateBody.read(request)
    generation = await _begin(request, body.prompts, body)
    return JSONResponse({"results": await _results(request, body.prompts, generation)})


class Pieces(StreamFormat):
    """The new text, then how it ended."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def delta(self, index: int, delta: Delta) -> Iterator[Json]:
        if delta.text:
            yield {"text": delta.text}
        if delta.finish_reason:
            yield {"finish_reason": delta.finish_reason, "token_count": self._generation.completion_tokens}


async def _begin(request: Request, prompts: list[str], body: GenerateFields) -> Generation:
    return await registry_of(request).default.complete(prompts, body, account=account_of(request))


async def _results(request: Request, prompts: list[str], generation: Generation) -> list[Json]:
    choices = await collect(request, generation)
    return [
        {
            "generated_text": prompt + choice.text,
            "token_count": stats.generated_tokens,
            "finish_reason": choice.finish_reason,
        }
        for prompt, choice, stats in zip(prompts, choices, generation.stats, strict=True)
    ]
