"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.generation.logprobs import completion_logprobs, prompt_logprobs
from server.generation.usage import StreamUsage
from server.http.answers import Json, StreamFormat, collect, stream
from server.http.authentication import account_of
from server.lifecycle import registry_of
from server.schemas.openai import CompletionBody

if TYPE_CHECKING:
    from server.generation.deltas import Choice, Delta
    from server.generation.generation import Generation


async def completions(request: Request) -> Response:
    """The continuation of prompts. OpenAI's completions."""
    body = await CompletionBody.read(request)
    model = registry_of(request).resolve(body.model)
    generation = await model.complete(body.prompts, body, account=account_of(request))
    head = {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model or model.name,
    }
    request.scope["log_fields"].update(body.log_fields)
    if body.stream:
        return await stream(request, generation, CompletionChunks(head, body, generation))
    choices = _best(await collect(request, generation), body)
    entries = [_choice(index, choice, choice.finish_reason, body) for index, choice in enumerate(choices)]
    return JSONResponse({**head, "choices": entries, "usage": generation.usage(prompts=len(body.prompts))})


class CompletionChunks(StreamFormat):
    """The text of each choice; the usage as it was asked for."""

    def __init__(self, head: Json, body: CompletionBody, generation: Generation) -> None:
        self._head, self._body = head, body
        self._usage = StreamUsage(body.stream_options, generation, prompts=len(body.prompts))

    def delta(self, index: int, delta: Delta) -> Iterator[Json]:
        choice = _choice(index, delta, delta.finish_reason, self._body)
        yield {**self._head, "choices": [choice], **self._usage.of_chunk()}

    def end(self) -> Iterator[Json]:
        for usage in self._usage.at_end():
            yield {**self._head, "choices": [], **usage}


def _best(choices: list[Choice], body: CompletionBody) -> list[Choice]:
    """The n choices of each prompt with the best mean log-probability of a token, best first."""
    if body.choices == body.n:
        return choices
    groups = [choices[start : start + body.choices] for start in range(0, len(choices), body.choices)]
    return [choice for group in groups for choice in sorted(group, key=_mean_logprob, reverse=True)[: body.n]]


def _mean_logprob(choice: Choice) -> float:
    logprobs = [token.token.logprob or 0.0 for token in choice.logprobs]
    return sum(logprobs) / max(len(logprobs), 1)


def _choice(index: int, part: Choice | Delta, finish_reason: str | None, body: CompletionBody) -> Json:
    """A choice, or a piece of one."""
    choice = {"index": index, "text": part.text, "logprobs": None, "finish_reason": finish_reason}
    if body.logprobs is not None:
        choice["logprobs"] = completion_logprobs([*(part.prompt if body.echo else ()), *part.logprobs])
    if body.prompt_logprobs is not None:
        choice["prompt_logprobs"] = prompt_logprobs(part.prompt)
    return choice
