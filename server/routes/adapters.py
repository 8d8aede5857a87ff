"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, for operators: behind a key of their own."""

import hmac

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.http.authentication import offered_keys
from server.http.errors import InvalidRequest, Unauthorized
from server.lifecycle import Lifecycle
from server.model_paths import AdapterPath
from server.schemas.adapters import LoadAdapterBody, UnloadAdapterBody

ADMIN_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})


async def load_adapter(request: Request) -> Response:
    """Serves a LoRA adapter under a name. Needs the admin key."""
    _check_key(request)
    body = await LoadAdapterBody.read(request)
    lifecycle: Lifecycle = request.app.state.lifecycle
    if body.lora_name in lifecycle.registry.names and not body.load_inplace:
        raise InvalidRequest(
            f"{body.lora_name!r} is served already; unload it first, or set load_inplace to true.", param="lora_name"
        )
    model = body.base_model_name or lifecycle.registry.default.name
    await request.app.state.adapters.load(body.lora_name, AdapterPath(body.lora_path, model))
    return JSONResponse({"status": "loaded", "lora_name": body.lora_name})


async def unload_adapter(request: Request) -> Response:
    """Serves an adapter to no more requests; those that it has go on. Needs the admin key."""
    _check_key(request)
    body = await UnloadAdapterBody.read(request)
    await request.app.state.adapters.unload(body.lora_name)
    return JSONResponse({"status": "unloaded", "lora_name": body.lora_name})


def _check_key(request: Request) -> None:
    """Raises Unauthorized without the admin key."""
    key = request.app.state.settings.admin_key
    if key is None:
        raise Unauthorized("This server has no admin key; start it with one to load and unload adapters.")
    if not any(hmac.compare_digest(offer, key.encode()) for offer in offered_keys(request.headers)):
        raise Unauthorized("This needs the admin key; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
