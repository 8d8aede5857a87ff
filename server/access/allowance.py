"""Limits per minute, and how soon there is room again."""

import time
from collections.abc import Callable

Clock = Callable[[], float]  # seconds
_ROUNDING = 1e-6  # by which a level may miss an amount that was waited for


class Allowance:
    """So much a minute. It refills evenly, up to one minute's worth (a token bucket).

    >>> now = 0.0
    >>> requests = Allowance(2, clock=lambda: now)
    >>> requests.take(2); requests.wait(1)
    30.0

    Args:
        per_minute: None is no limit.
    """

    def __init__(self, per_minute: int | None, clock: Clock = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level, self._at = float(per_minute or 0), clock()

    @property
    def level(self) -> float:
        """What may be taken now."""
        now, limit = self._clock(), self.per_minute or 0
        self._level, self._at = min(limit, self._level + (now - self._at) * limit / 60), now
        return self._level

    def wait(self, amount: float) -> float:
        """Seconds until so much may be taken; 0 where it may be now."""
        if self.per_minute is None:
            return 0.0
        missing = amount - self.level
        return missing * 60 / self.per_minute if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        """Takes what `wait` has shown to be there; a negative amount is given back."""
        if self.per_minute is not None:
            self._level = self.level - amount

    def change(self, per_minute: int | None) -> None:
        """Sets another limit; what was used of the former counts."""
        used = (self.per_minute or 0) - self.level
        self.per_minute = per_minute
        self._level = (per_minute or 0) - used


class Pace:
    """How often something ends, where no rule says when: the mean of the seconds between the last ends."""

    _WEIGHT = 0.2  # of the newest interval in the mean
    _LONGEST = 10.0  # seconds: a longer interval was idle

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._at: float | None = None
        self.seconds = 1.0

    def mark(self) -> None:
        """Something has ended."""
        now = self._clock()
        if self._at is not None:
            self.seconds += self._WEIGHT * (min(now - self._at, self._LONGEST) - self.seconds)
        self._at = now
