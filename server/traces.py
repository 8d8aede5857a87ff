"""OpenTelemetry traces: one span per generation, by the semantic conventions for generative AI.

Neither prompts nor answers are in them. A request that bears a `traceparent` header continues that trace.
"""

import time
from typing import TYPE_CHECKING, Any

from llm_jax import __version__
from llm_jax.errors import ConfigError
from server.observers import RequestStats

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

# https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai
OPERATIONS = {
    "/v1/chat/completions": "chat", "/v1/responses": "chat", "/v1/messages": "chat", "/v1/embeddings": "embeddings",
}  # fmt: skip
OTHER = "text_completion"


def otlp_exporter(endpoint: str) -> "SpanExporter":
    """Sends spans to a collector, as protocol buffers over HTTP.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError("otlp_traces_endpoint needs OpenTelemetry; install the extra 'otel'.") from None
    return OTLPSpanExporter(endpoint=endpoint)


class Traces:
    """An `Observer` that writes a span when a request has ended. Spans are exported by a thread, and at the exit."""

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": "llm", "service.version": __version__})
        self.provider = TracerProvider(resource=resource)
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self.provider.get_tracer("llm.server", __version__)

    def on_rejected(self, reason: str) -> None:
        pass

    def on_admitted(self, request: RequestStats) -> None:
        pass

    def on_first_token(self, request: RequestStats) -> None:
        pass

    def on_next_token(self, request: RequestStats, interval: float) -> None:
        pass

    def on_embedded(self, request: RequestStats) -> None:
        pass

    def on_ended(self, request: RequestStats) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        offset = time.time_ns() - round(time.perf_counter() * 1e9)  # of the clocks
        operation = OPERATIONS.get(request.trace.path, OTHER)
        span = self._tracer.start_span(
            f"{operation} {request.model}",
            context=TraceContextTextMapPropagator().extract(request.trace.headers),
            kind=SpanKind.SERVER,
            start_time=offset + round(request.arrived * 1e9),
            attributes=_attributes(request, operation),
        )
        for event, moment in (("batch slot", request.admitted), ("first token", request.first_token)):
            if moment is not None:
                span.add_event(event, timestamp=offset + round(moment * 1e9))
        if request.finish_reason is None:
            span.set_attribute("error.type", "cancelled")
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _attributes(request: RequestStats, operation: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "llm",
        "gen_ai.request.model": request.model,
        "gen_ai.response.model": request.model,
        "gen_ai.usage.input_tokens": request.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": request.cached_tokens,
        "gen_ai.usage.output_tokens": request.generated_tokens,
    }
    if request.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [request.finish_reason]
    return attributes
