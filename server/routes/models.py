"""GET /v1/models: the one model that is served."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.errors import NotFound
from server.lifecycle import engine_of


async def list_models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [_card(request)]})


async def retrieve_model(request: Request) -> Response:
    card = _card(request)
    name = request.path_params["model"]
    if name != card["id"]:
        raise NotFound(f"There is no model {name!r}; this server has {card['id']!r}.", code="model_not_found")
    return JSONResponse(card)


def _card(request: Request) -> dict[str, Any]:
    """OpenAI's fields, and the context length under the name that other servers give it."""
    return {
        "id": request.app.state.settings.served_model_name,
        "object": "model",
        "created": request.app.state.lifecycle.ready_at,
        "owned_by": "llm",
        "max_model_len": engine_of(request).max_len,
    }
