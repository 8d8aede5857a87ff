"""One path for each route: clients add /v1, leave it out, or end a path with a slash."""

from collections.abc import Iterable

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

VERSION = "/v1"


class CanonicalPath:
    """Rewrites a request's path to that of the route that is meant, so that every other layer knows only one.

    A path that some route has is left as it is.
    """

    def __init__(self, app: ASGIApp, *, routes: Iterable[BaseRoute]) -> None:
        self.app = app
        self.routes = list(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": self.canonical(scope)}
        await self.app(scope, receive, send)

    def canonical(self, scope: Scope) -> str:
        given: str = scope["path"]
        path = given.rstrip("/") or "/"
        other = path.removeprefix(VERSION) if path.startswith(f"{VERSION}/") else VERSION + path
        return next((candidate for candidate in (path, other) if self._is_route({**scope, "path": candidate})), given)

    def _is_route(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] != Match.NONE for route in self.routes)
