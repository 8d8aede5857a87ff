"""GET /version."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llm_jax import __version__


async def version(request: Request) -> Response:
    """The version of the server."""
    return JSONResponse({"version": __version__})
