"""Every error that a client can be sent, in the one form that OpenAI's SDKs read, or Anthropic's at its routes.

ApiError                 500  a bug of ours
├── InvalidRequest       400  the request cannot be served as it is asked (422 at /generate and /batch_generate)
├── Unauthorized         401  the key is missing or wrong
├── NotFound             404
├── RequestTimeout       408  the body does not come
├── BodyTooLarge         413
├── UnsupportedCoding    415  the body is compressed in a way that is not known
├── BadHttp              400  what the HTTP parser refuses (414, 431 where the head is too long)
├── TooManyRequests      429  a limit of the API key, or of the queue
├── Unavailable          503  loading, draining, or waited too long for a batch slot
└── DeadlineExceeded     504  the answer took too long
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

# Codes of what no JSON schema could say of a request that is valid by itself: two fields that do not go together, and a
# regular expression, a grammar or a schema that text cannot be held to.
CONFLICT = "conflicting_parameters"
UNUSABLE = "unusable_constraint"
ANTHROPIC_PATH = "/v1/messages"
ANTHROPIC_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 405: "invalid_request_error",
    408: "invalid_request_error", 413: "request_too_large", 415: "invalid_request_error", 429: "rate_limit_error",
    503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        param: the field of the request that is to blame, where one is.
        code: a short name of the case, for programs.
        headers: those that the answer has beside its body.
    """

    status = 500
    type = "server_error"
    code: str | None = "internal_error"
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code or self.code

    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}

    def response(self, scope: Scope | None = None) -> JSONResponse:
        """The answer to the request of `scope`, where there is one."""
        return _response(scope, self.body(), self.status, self.headers)


class InvalidRequest(ApiError):
    status = 400
    type = "invalid_request_error"
    code = None


class Unauthorized(ApiError):
    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"
    headers = MappingProxyType({"WWW-Authenticate": 'Bearer realm="llm"'})


class NotFound(ApiError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class RequestTimeout(ApiError):
    status = 408
    type = "invalid_request_error"
    code = "request_timeout"
    headers = MappingProxyType({"Connection": "close"})


class BodyTooLarge(ApiError):
    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class UnsupportedCoding(ApiError):
    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_coding"


class BadHttp(ApiError):
    type = "invalid_request_error"
    code = "bad_http_request"

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class TooManyRequests(ApiError):
    """The limit that was met is the code.

    Args:
        message: without its end, which says when to return.
        seconds: when a request will be taken.
    """

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, *, code: str, seconds: float) -> None:
        milliseconds = math.ceil(1000 * seconds)
        super().__init__(f"{message}; try again in {milliseconds / 1000:g} seconds.", code=code)
        self.headers = {"Retry-After": str(math.ceil(milliseconds / 1000)), "Retry-After-Ms": str(milliseconds)}


class Unavailable(ApiError):
    status = 503
    code = "unavailable"
    headers = MappingProxyType({"Retry-After": "2"})


class DeadlineExceeded(ApiError):
    status = 504
    code = "deadline_exceeded"


def on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if isinstance(error, TooManyRequests):
        for observer in request.app.state.lifecycle.observers:
            observer.on_rejected(error.code)
    response = error.response(request.scope)
    if isinstance(error, InvalidRequest):
        response.status_code = getattr(request.scope.get("route"), "invalid_status", error.status)
    return response


def on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own: an unknown path and a wrong method."""
    assert isinstance(error, HTTPException)
    path = f"{request.method} {request.url.path}"
    message, code = {
        404: (f"There is no {path} here.", "not_found"),
        405: (f"{path} is not allowed; use {(error.headers or {}).get('Allow')}.", "method_not_allowed"),
    }.get(error.status_code, (error.detail, None))
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return _response(request.scope, body, error.status_code, error.headers)


def on_client_gone(request: Request, error: Exception) -> Response:
    """The client has hung up; the status is for the access log."""
    return Response(status_code=499)


def anthropic_body(body: dict[str, Any], status: int) -> dict[str, Any]:
    """The same error for Anthropic's clients."""
    return {"type": "error", "error": {**body["error"], "type": ANTHROPIC_TYPES.get(status, "api_error")}}


def _response(
    scope: Scope | None, body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    if scope and scope["path"].startswith(ANTHROPIC_PATH):
        body = anthropic_body(body, status)
    return JSONResponse(body, status, headers)


EXCEPTION_HANDLERS = {ApiError: on_api_error, HTTPException: on_http_exception, ClientDisconnect: on_client_gone}
