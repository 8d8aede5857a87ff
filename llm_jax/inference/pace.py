"""How long runs of the model take, and how much of a prompt may go along with running streams."""

from collections.abc import Hashable, Mapping, Sequence

PATIENCE = 2.2  # a step that carries a prompt may take this many plain ones, so that a stream's gap stays under three
WEIGHT = 0.05  # of a slower run


class Pace:
    """Each program's usual seconds: falls to a faster run at once, rises slowly, so that one hiccup counts little."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def note(self, program: Hashable, seconds: float) -> None:
        known = self._seconds.get(program, seconds)
        self._seconds[program] = min(seconds, known + WEIGHT * (seconds - known))

    def room(self, steps: Mapping[int, Sequence[Hashable]], plain: Sequence[Hashable], wanted: int) -> int:
        """How many tokens of prompts a step should carry: of what streams have patience for, the best rate.

        Args:
            steps: the programs of a step with room for so many.
            plain: those of a step without any; none where no stream waits.
            wanted: tokens there are.

        Returns:
            One of the rooms. Where no time is known, the least that holds all, so that little is compiled.
        """
        if plain:
            patience = PATIENCE * self._time(plain)
            steps = {n: programs for n, programs in steps.items() if self._time(programs) <= patience} or {
                min(steps): steps[min(steps)]
            }
        best = max(steps, key=lambda n: min(n, wanted) / self._time(steps[n]))
        if self._time(steps[best]) < float("inf"):
            return best
        return min((n for n in steps if n >= wanted), default=max(steps))

    def _time(self, programs: Sequence[Hashable]) -> float:
        return sum(self._seconds.get(program, float("inf")) for program in programs)
