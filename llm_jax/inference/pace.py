"""How long programs take, and how large a chunk of a prompt may be beside running streams."""

from collections.abc import Hashable, Sequence

PATIENCE = 1.5  # a chunk may take this many times a decode step, so that a stream's gap stays under three
WEIGHT = 0.05  # of a slower run


class Pace:
    """Each program's usual seconds: falls to a faster run at once, rises slowly, so that one hiccup counts little."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def note(self, program: Hashable, seconds: float) -> None:
        known = self._seconds.get(program, seconds)
        self._seconds[program] = min(seconds, known + WEIGHT * (seconds - known))

    def chunk(self, sizes: Sequence[int], decode: Hashable) -> int:
        """The largest chunk whose time fits beside this decode step; the smallest where none does or none is known."""
        step = self._seconds.get(decode)
        if step is None:
            return sizes[0]
        fitting = [n for n in sizes if self._seconds.get(n, float("inf")) <= PATIENCE * step]
        return max(fitting, default=sizes[0])
