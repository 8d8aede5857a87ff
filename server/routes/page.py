"""GET /: the chat page, and the files that it consists of.

It is static and holds no data, so that it needs no key; what it asks the API for does.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parents[1] / "static"
PAGE = "chat.html"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No script may hand text to what parses HTML: a model's text cannot become markup even by a mistake of ours.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and not sent again while it is the same
}
FILES = StaticFiles(directory=STATIC)


async def page(request: Request) -> Response:
    """The chat page."""
    return await _file(PAGE, request)


async def static(request: Request) -> Response:
    """A file of it."""
    return await _file(request.path_params["name"], request)


async def _file(name: str, request: Request) -> Response:
    response = await FILES.get_response(name, request.scope)
    response.headers.update(HEADERS)
    return response


PAGE_ROUTES = [Route("/", page), Route("/static/{name}", static)]
PAGE_PATHS = frozenset({"/", *(f"/static/{path.name}" for path in STATIC.iterdir())})
