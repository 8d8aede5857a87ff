"""GET /openapi.json, and /docs, the same for people."""

from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from server.http.documentation import documentation_page


async def openapi(request: Request) -> Response:
    """The OpenAPI document of this server."""
    return JSONResponse(_document(request))


async def docs(request: Request) -> Response:
    """The same as a page."""
    return HTMLResponse(documentation_page(_document(request)))


def _document(request: Request) -> dict[str, Any]:
    """With the limits of the models that are served."""
    document: dict[str, Any] = request.app.state.openapi(request.app.state.lifecycle.registry.limits)
    return document
