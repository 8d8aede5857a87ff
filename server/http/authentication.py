"""Whose a request is: the account of its API key."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access.account import Account
from server.access.keys import Keys
from server.http.errors import Unauthorized


class Authentication:
    """Refuses requests without a key, in `X-API-Key` or as a bearer token, except to `open_paths`.

    Answers say what is left of the limits of the key's account.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, open_paths: frozenset[str]) -> None:
        self.app = app
        self.keys = keys
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        offered = offered_keys(Headers(scope=scope))
        account = self.keys.find(offered)
        if account is None:
            problem = "The API key is not one of this server's" if offered else "This server needs an API key"
            error = Unauthorized(f"{problem}; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")
            await error.response(scope)(scope, receive, send)
            return
        scope["account"] = account
        if account.name:
            scope["log_fields"]["account"] = account.name

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(account.headers())
            await send(message)

        await self.app(scope, receive, send_with_limits)


def account_of(request: Request) -> Account:
    """The account that a request belongs to."""
    account: Account = request.scope["account"]
    return account


def offered_keys(headers: Headers) -> list[bytes]:
    """The keys that a request bears."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    offered = [headers.get("x-api-key", ""), token.strip() if scheme.casefold() == "bearer" else ""]
    return [key.encode("latin-1") for key in offered if key]
