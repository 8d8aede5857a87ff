"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.http.answers import collect
from server.http.authentication import account_of
from server.http.errors import InvalidRequest
from server.lifecycle import registry_of
from server.schemas.embeddings import EmbeddingBody

if TYPE_CHECKING:
    import numpy as np

    from server.served_model import ServedModel


async def embeddings(request: Request) -> Response:
    """Texts as vectors of unit length: the mean of the last hidden states. OpenAI's embeddings."""
    body = await EmbeddingBody.read(request)
    model = registry_of(request).resolve(body.model)
    _check_dimensions(body, model)
    if body.user:
        request.scope["log_fields"]["user"] = body.user
    work = await model.embed(body.texts, body, account=account_of(request))
    vectors = [_unit(vector_D[: body.dimensions]) for vector_D in await collect(request, work)]
    encode = _base64 if body.encoding_format == "base64" else _floats
    entries = [
        {"object": "embedding", "index": index, "embedding": encode(vector_D)} for index, vector_D in enumerate(vectors)
    ]
    usage = {"prompt_tokens": work.prompt_tokens, "total_tokens": work.prompt_tokens}
    return JSONResponse({"object": "list", "data": entries, "model": body.model or model.name, "usage": usage})


def _check_dimensions(body: EmbeddingBody, model: ServedModel) -> None:
    if body.dimensions is not None and body.dimensions > model.embedding_size:
        raise InvalidRequest(
            f"'dimensions' is {body.dimensions}: an embedding of this model has {model.embedding_size}.",
            param="dimensions",
            code="invalid_value",
        )


def _unit(vector_D: np.ndarray) -> np.ndarray:
    length = float(vector_D @ vector_D) ** 0.5
    return vector_D / length if length else vector_D


def _base64(vector_D: np.ndarray) -> str:
    """As OpenAI encodes it: float32, least significant byte first."""
    return base64.b64encode(vector_D.astype("<f4").tobytes()).decode()


def _floats(vector_D: np.ndarray) -> list[float]:
    return [float(value) for value in vector_D]
