"""The events of a request on an engine, for those that observe them: metrics, and traces in the same way."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(kw_only=True, slots=True, eq=False)
class RequestStats:
    """One engine request so far. Times are seconds of `time.perf_counter`, None until they are known.

    Attributes:
        cached_tokens: tokens of the prompt that were in the prefix cache.
        finish_reason: None as well where the request was cancelled, or failed.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    generated_tokens: int = 0
    arrived: float
    admitted: float | None = None
    first_token: float | None = None
    last_token: float | None = None
    finish_reason: str | None = None


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
