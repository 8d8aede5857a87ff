"""An account: one holder of keys, with limits and what it has used of them."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from server.access.allowance import Allowance, Clock, Pace
from server.http.errors import InvalidRequest, TooManyRequests

RATE_LIMIT_HEADERS = [
    f"X-RateLimit-{what}-{kind}" for kind in ("Requests", "Tokens") for what in ("Limit", "Remaining", "Reset")
]
Positive = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an account may use; None is no limit.

    Attributes:
        requests_per_minute, tokens_per_minute: of generating requests. Tokens are those of the prompt and of the
            completion, which counts as long as it may become until it has ended.
        concurrent: requests at a time.
        priority: the best of its requests, where less is earlier.
        models: names of those it may use.
    """

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    concurrent: Positive | None = None
    priority: int | None = None
    models: tuple[str, ...] | None = None


class Account:
    """Used on the event loop alone.

    Attributes:
        name: for the log; requests of one account share prompt beginnings, and a share of the engine.
        is_only: there is no other, so that the whole queue is its own.
    """

    def __init__(self, name: str, limits: Limits | None = None, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.is_only = True
        self.limits = limits or Limits()
        self._requests = Allowance(self.limits.requests_per_minute, clock)
        self._tokens = Allowance(self.limits.tokens_per_minute, clock)
        self._running = 0
        self._pace = Pace(clock)

    def change(self, limits: Limits) -> None:
        """Sets other limits; what was used counts against them."""
        self.limits = limits
        self._requests.change(limits.requests_per_minute)
        self._tokens.change(limits.tokens_per_minute)

    def may_use(self, model: str) -> bool:
        return self.limits.models is None or model in self.limits.models

    def priority(self, asked: int) -> int:
        """That of a request which asks for one: no better than the account's."""
        return asked if self.limits.priority is None else max(asked, self.limits.priority)

    def check(self, tokens: int = 0) -> None:
        """Decides whether a request of so many tokens may begin now; which of them there are may not be known yet.

        Raises:
            TooManyRequests: not now.
            InvalidRequest: it has more tokens than there are in a minute.
        """
        limits = self.limits
        if limits.tokens_per_minute is not None and tokens > limits.tokens_per_minute:
            raise InvalidRequest(
                f"The request may take {tokens} tokens, prompt and completion together; this API key has "
                f"{limits.tokens_per_minute} a minute. Shorten the prompt, or ask for fewer tokens.",
                code="tokens_per_minute",
            )
        if limits.concurrent is not None and self._running >= limits.concurrent:
            raise TooManyRequests(
                f"This API key has {limits.concurrent} requests at a time, and they are all being answered",
                code="concurrent_requests",
                seconds=self._pace.seconds,
            )
        needed = ((self._requests, 1, "requests"), (self._tokens, max(tokens, 1), "tokens"))
        allowance, amount, kind = max(needed, key=lambda need: need[0].wait(need[1]))
        if seconds := allowance.wait(amount):
            raise TooManyRequests(
                f"This API key has {allowance.per_minute} {kind} a minute, and {math.floor(allowance.level)} are left "
                f"where {amount} are needed",
                code=f"{kind}_per_minute",
                seconds=seconds,
            )

    def admit(self, tokens: int) -> Callable[[int], None]:
        """Begins a request of at most so many tokens; call what is returned at its end, with those it has used.

        Raises what `check` does.
        """
        self.check(tokens)
        self._requests.take(1)
        self._tokens.take(tokens)
        self._running += 1

        def end(used: int) -> None:
            self._tokens.take(used - tokens)
            self._running -= 1
            self._pace.mark()

        return end

    def headers(self) -> dict[str, str]:
        """What is left, as OpenAI's API says it."""
        headers = {}
        for kind, allowance in (("requests", self._requests), ("tokens", self._tokens)):
            if allowance.per_minute is not None:
                headers[f"x-ratelimit-limit-{kind}"] = str(allowance.per_minute)
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, math.floor(allowance.level)))
                headers[f"x-ratelimit-reset-{kind}"] = f"{allowance.wait(allowance.per_minute):.3f}s"
        return headers


ANYBODY = Account("")  # where no key is needed
