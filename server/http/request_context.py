"""What every request gets: an id, a line in the access log, its HTTP metrics, an answer to unexpected errors."""

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.errors import ApiError
from server.metrics import Metrics
from server.observers import TraceContext, trace_context

log = structlog.get_logger("server.access")
SANE_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
TRACE = ("traceparent", "tracestate")  # W3C's
QUIET = {"/health", "/ready", "/metrics"}  # asked every few seconds; logged at DEBUG


class RequestContext:
    """The outermost layer. Routes may add to the access log line through `log_fields`."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        headers = Headers(scope=scope)
        trace_context.set(TraceContext(scope["path"], {name: headers[name] for name in TRACE if name in headers}))
        offered = headers.get("x-request-id", "")
        request_id = offered if SANE_ID.fullmatch(offered) else uuid.uuid4().hex
        scope["log_fields"] = {}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, send_with_id)
            except Exception:
                log.exception("unexpected error")
                if status:  # too late to say it: a cut connection is the only sign left
                    raise
                await ApiError("The server failed; the log has the reason under this request's id.").response(scope)(
                    scope, receive, send_with_id
                )
            finally:
                self._record(scope, status, time.perf_counter() - begin)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        labels = (method, route, str(status))
        self.metrics.http_requests.labels(*labels).inc()
        self.metrics.http_duration.labels(*labels).observe(seconds)
        (log.debug if route in QUIET else log.info)(
            "request",
            method=scope["method"],
            path=scope["path"],
            route=route,
            status=status,
            duration=round(seconds, 6),
            **scope["log_fields"],
        )


METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
