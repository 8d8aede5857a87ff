"""GET /health, /ready and /metrics, for orchestrators and Prometheus."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.lifecycle import registry_of


async def health(request: Request) -> Response:
    """The process lives and its engines compute, loading and draining included; 503 where it must be restarted."""
    lifecycle = request.app.state.lifecycle
    lifecycle.check_engines()
    return JSONResponse({"status": "ok", "phase": lifecycle.phase})


async def ready(request: Request) -> Response:
    """The model is loaded and requests are taken; 503 otherwise."""
    registry_of(request)
    request.app.state.lifecycle.check_engines()
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    return Response(request.app.state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
