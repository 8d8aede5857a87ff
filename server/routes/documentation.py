"""GET /openapi.json, and /docs, the same for people."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from server.http.documentation import documentation_page


async def openapi(request: Request) -> Response:
    """The OpenAPI document of this server."""
    return JSONResponse(request.app.state.openapi)


async def docs(request: Request) -> Response:
    """The same as a page."""
    return HTMLResponse(documentation_page(request.app.state.openapi))
