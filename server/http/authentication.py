"""API keys."""

import hmac
from collections.abc import Sequence
from hashlib import blake2b

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http.errors import Unauthorized


class Authentication:
    """Refuses requests without one of `keys`, in `X-API-Key` or as a bearer token, except to `open_paths`."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], open_paths: frozenset[str]) -> None:
        self.app = app
        self.keys = [key.encode() for key in keys]
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self.keys or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        offered = _offered_keys(Headers(scope=scope))
        # Every pair is compared, so that the time does not tell which key came close.
        known = [offer for offer in offered for key in self.keys if hmac.compare_digest(offer, key)]
        if known:
            scope["tenant"] = blake2b(known[0], digest_size=8).hexdigest()
            await self.app(scope, receive, send)
            return
        problem = "The API key is not one of this server's" if offered else "This server needs an API key"
        error = Unauthorized(f"{problem}; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
        await error.response(scope)(scope, receive, send)


def tenant_of(request: Request) -> str:
    """The tenant that a request belongs to: a digest of its API key, empty where none is needed."""
    return str(request.scope.get("tenant", ""))


def _offered_keys(headers: Headers) -> list[bytes]:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    offered = [headers.get("x-api-key", ""), token.strip() if scheme.casefold() == "bearer" else ""]
    return [key.encode("latin-1") for key in offered if key]
