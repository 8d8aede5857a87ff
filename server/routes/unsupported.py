"""Routes of OpenAI's API and of other servers that this one does not have: refused by name, not as a mistyped path."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.http.errors import NotFound

UNSUPPORTED = {
    "/v1/audio/{rest:path}": "audio",
    "/v1/batches{rest:path}": "batches of files",
    "/v1/files{rest:path}": "files",
    "/v1/fine_tuning/{rest:path}": "fine-tuning",
    "/v1/images/{rest:path}": "images",
    "/v1/moderations": "moderation",
    "/v1/realtime{rest:path}": "realtime sessions",
    "/v1/rerank": "reranking",
    "/v2/rerank": "reranking",
    "/v1/responses/{rest:path}": "stored responses",
    "/v1/score": "scoring of pairs",
}


def unsupported_routes() -> list[Route]:
    return [_route(path, service) for path, service in UNSUPPORTED.items()]


def _route(path: str, service: str) -> Route:
    async def refuse(request: Request) -> Response:
        raise NotFound(
            f"{request.url.path} is not supported: this server has no {service}. /docs lists what it has.",
            code="unsupported_route",
        )

    return Route(path, refuse, methods=["GET", "POST", "DELETE"])
