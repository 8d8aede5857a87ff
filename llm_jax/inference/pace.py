"""How long programs take, and how large a chunk of a prompt may be beside running streams."""

from collections.abc import Hashable, Mapping

PATIENCE = 1.5  # a chunk may take this many times a decode step, so that a stream's gap stays under three
WEIGHT = 0.05  # of a slower run


class Pace:
    """Each program's usual seconds: falls to a faster run at once, rises slowly, so that one hiccup counts little."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def note(self, program: Hashable, seconds: float) -> None:
        known = self._seconds.get(program, seconds)
        self._seconds[program] = min(seconds, known + WEIGHT * (seconds - known))

    def chunk(self, programs: Mapping[int, Hashable], decode: Hashable) -> int:
        """The largest chunk whose program fits beside this decode step; the smallest where none is known to.

        Args:
            programs: the program that each size of chunk would run.
        """
        step = self._seconds.get(decode, 0.0)
        fitting = [n for n, program in programs.items() if self._seconds.get(program, float("inf")) <= PATIENCE * step]
        return max(fitting, default=min(programs))
