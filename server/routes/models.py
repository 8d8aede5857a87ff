"""GET /v1/models: the models that are served."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.lifecycle import registry_of

if TYPE_CHECKING:
    from server.served_model import ServedModel


async def list_models(request: Request) -> Response:
    """The models that are served."""
    return JSONResponse({"object": "list", "data": [_card(model) for model in registry_of(request)]})


async def retrieve_model(request: Request) -> Response:
    """One of them."""
    return JSONResponse(_card(registry_of(request).get(request.path_params["model"])))


def _card(model: ServedModel) -> dict[str, Any]:
    """OpenAI's fields, and the context length and an adapter's model under the names that other servers give them."""
    card = {
        "id": model.name,
        "object": "model",
        "created": model.ready_at,
        "owned_by": "llm",
        "max_model_len": model.max_len,
    }
    return card if model.parent is None else {**card, "parent": model.parent}
