"""A route, and what /openapi.json says of it."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.schemas.base import Body

Endpoint = Callable[[Request], Awaitable[Response]]


class Operation(Route):
    """A route that is documented: by the docstring of its endpoint, and the schemas of the body that it reads.

    It takes GET and HEAD where there is no body, POST where there is one.

    Attributes:
        bodies: the body is one of these.
        answer: the media type of a successful answer; one with a field `stream` may be a stream as well.
        generates: it uses the engine, whose queue may be full and whose answer may take too long.
        invalid_status: of a body that cannot be served as it is asked.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *bodies: type[Body],
        answer: str = "application/json",
        generates: bool = False,
        invalid_status: int = 400,
    ) -> None:
        super().__init__(path, endpoint, methods=["POST"] if bodies else ["GET"])
        self.bodies = bodies
        self.answer = answer
        self.generates = generates
        self.invalid_status = invalid_status

    @property
    def text(self) -> str:
        return " ".join((self.endpoint.__doc__ or "").split())
