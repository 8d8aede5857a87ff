"""The events of a request on an engine, for those that observe them: metrics, and traces in the same way."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class TraceContext:
    """The HTTP request that work on an engine belongs to: its path, and the headers that say which trace goes on."""

    path: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


NO_TRACE = TraceContext()
trace_context: ContextVar[TraceContext] = ContextVar("trace_context", default=NO_TRACE)


@dataclass(kw_only=True, slots=True, eq=False)
class RequestStats:
    """One engine request so far. Times are seconds of `time.perf_counter`, None until they are known.

    Attributes:
        model: the name of the model, or of the adapter.
        cached_tokens: tokens of the prompt that were in the prefix cache.
        trace: what the request that is being handled belongs to.
        finish_reason: None as well where the request was cancelled, or failed.
    """

    model: str
    prompt_tokens: int
    cached_tokens: int = 0
    generated_tokens: int = 0
    arrived: float
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finish_reason: str | None = None
    trace: TraceContext = field(default_factory=trace_context.get)


class Observer(Protocol):
    """Is called on the event loop. All events of one request come with the same `RequestStats`."""

    def on_rejected(self, reason: str) -> None:
        """A request is refused before it reaches an engine."""

    def on_admitted(self, request: RequestStats) -> None:
        """The request has a batch slot."""

    def on_first_token(self, request: RequestStats) -> None:
        """The first token has arrived."""

    def on_next_token(self, request: RequestStats, interval: float) -> None:
        """Another token has arrived, `interval` seconds after the one before."""

    def on_embedded(self, request: RequestStats) -> None:
        """The text has been embedded; there are no tokens."""

    def on_ended(self, request: RequestStats) -> None:
        """The last token has arrived, or the request is cancelled, or it has failed."""
