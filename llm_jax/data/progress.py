"""How far the tokenising has come, on the terminal."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from llm_jax.data.tokenising import SMALL


class TokenisingBar:
    """A bar in a terminal; anywhere else a line at the beginning and one at the end. On standard error.

    Of what takes no time it says nothing.

    Args:
        quiet: say nothing.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)

    def begin(self, nbytes: int) -> None:
        self._console.quiet |= nbytes < SMALL
        self._tokens, self._done, self._start = 0, 0, time.perf_counter()
        self._bar = Progress(
            TextColumn("Tokenising"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[speed]}  left"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=nbytes, speed="")
        self._bar.start()
        if not self._console.is_terminal:
            self._console.print(f"Tokenising {_megabytes(nbytes)}.")

    def advance(self, nbytes: int, tokens: int) -> None:
        self._tokens += tokens
        self._done += nbytes
        speed = f"{_megabytes(self._done / self._seconds())}/s"
        self._bar.update(self._task, completed=self._done, speed=speed)

    def end(self) -> None:
        self._bar.stop()
        if self._tokens:
            self._console.print(
                f"Tokenised {_megabytes(self._done)} to {self._tokens:,} tokens in {self._seconds():.1f} s."
            )

    def _seconds(self) -> float:
        return max(1e-6, time.perf_counter() - self._start)


def _megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.1f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:,.2f} GB"
