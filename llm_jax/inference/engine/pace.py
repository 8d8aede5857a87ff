"""How long runs of the model take, and how much of a prompt may go along with running streams."""

from collections.abc import Hashable, Mapping, Sequence

PATIENCE = 1.7  # a step that carries a prompt may take this many plain ones, so that a stream's gap stays under three
FASTER, SLOWER = 0.5, 0.2  # what a faster or a slower run weighs beside what is known
HICCUP = 2.0  # a run that took more than this many usual times counts as this many


class Pace:
    """Each program's usual seconds: a moving average, in which one hiccup counts little."""

    def __init__(self) -> None:
        self._seconds: dict[Hashable, float] = {}

    def note(self, program: Hashable, seconds: float) -> None:
        known = self._seconds.get(program, seconds)
        change = min(seconds, HICCUP * known) - known
        self._seconds[program] = known + (FASTER if change < 0 else SLOWER) * change

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
