"""GET /health, /ready and /metrics, for orchestrators and Prometheus."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.lifecycle import registry_of


async def health(request: Request) -> Response:
    """The process lives and answers, loading and draining included."""
    return JSONResponse({"status": "ok", "phase": request.app.state.lifecycle.phase})


async def ready(request: Request) -> Response:
    """The model is loaded and requests are taken; 503 otherwise."""
    registry_of(request)
    return JSONResponse({"status": "ready"})


async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    return Response(request.app.state.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
