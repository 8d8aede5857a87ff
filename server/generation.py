"""One HTTP request's work on the engine: its choices, as pieces of text that arrive in an asyncio queue.

The engine steps in a thread of its own. It hands each token over with `call_soon_threadsafe`; everything in this
file then happens on the event loop.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llm_jax.inference import Engine, Request, TextPiece, TextStream, TokenEvent
from server.errors import ApiError, DeadlineExceeded, Unavailable
from server.observers import Observer, RequestStats


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds after a request's arrival by which it must have a batch slot, its first token, and its last."""

    queue: float
    first_token: float
    total: float


@dataclass(frozen=True)
class Result:
    """A choice, whole."""

    text: str
    token_count: int
    finish_reason: str


class ChoiceStream:
    """One engine request, from its submission to its last token: tokens become pieces of text."""

    def __init__(self, prompt_tokens: int, text: TextStream, observers: Sequence[Observer]) -> None:
        # The event loop's own clock may count in milliseconds.
        self.stats = RequestStats(prompt_tokens=prompt_tokens, arrived=time.perf_counter())
        self._text = text
        self._observers = observers

    def admit(self, cached_tokens: int) -> None:
        """The request has a batch slot, and that many tokens of its prompt need not be computed."""
        self.stats.cached_tokens = cached_tokens
        self.stats.admitted = time.perf_counter()
        for observer in self._observers:
            observer.on_admitted(self.stats)

    def receive(self, event: TokenEvent) -> TextPiece:
        """The text that can be sent after this token."""
        previous, now = self.stats.last_token, time.perf_counter()
        self.stats.last_token = now
        self.stats.generated_tokens += 1
        if previous is None:
            self.stats.first_token = now
            for observer in self._observers:
                observer.on_first_token(self.stats)
        else:
            for observer in self._observers:
                observer.on_next_token(self.stats, now - previous)
        piece = self._text.push(event)
        self.stats.finish_reason = piece.finish_reason
        return piece

    def end(self) -> None:
        for observer in self._observers:
            observer.on_ended(self.stats)


class Generation:
    """The choices of one HTTP request. Iterates over (index of the choice, piece of its text).

    Use it as a context manager: leaving it, for whatever reason, cancels what still runs.
    """

    def __init__(
        self,
        engine: Engine,
        deadlines: Deadlines,
        observers: Sequence[Observer],
        *,
        on_close: Callable[["Generation"], None],
    ) -> None:
        self.choices: list[ChoiceStream] = []
        self._engine = engine
        self._deadlines = deadlines
        self._observers = observers
        self._on_close = on_close
        self._running: dict[int, int] = {}  # index of the choice -> request id of the engine
        self._pieces: asyncio.Queue[tuple[int, TextPiece] | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._arrived = self._loop.time()

    def submit(self, request: Request, text: TextStream) -> None:
        """Adds a choice: the request goes to the engine, its tokens to `text`."""
        index = len(self.choices)
        choice = ChoiceStream(len(request.prompt_ids), text, self._observers)
        self.choices.append(choice)

        def on_event(event: TokenEvent | Exception) -> None:  # in the engine's thread
            self._loop.call_soon_threadsafe(self._receive, index, event)

        def on_admit(cached_tokens: int) -> None:  # in the engine's thread
            self._loop.call_soon_threadsafe(self._admit, index, cached_tokens)

        self._running[index] = self._engine.submit(request, on_event, on_admit)

    @property
    def unfinished(self) -> int:
        return len(self._running)

    @property
    def prompt_tokens(self) -> int:
        return sum(choice.stats.prompt_tokens for choice in self.choices)

    @property
    def completion_tokens(self) -> int:
        return sum(choice.stats.generated_tokens for choice in self.choices)

    @property
    def cached_tokens(self) -> int:
        return sum(choice.stats.cached_tokens for choice in self.choices)

    def usage(self) -> dict[str, Any]:
        """As OpenAI's answers have it."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def log_fields(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for index in list(self._running):
            self._end(index)
        self._on_close(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, TextPiece]:
        if not self._running and self._pieces.empty():
            raise StopAsyncIteration
        deadline, error = self._next_deadline()
        try:
            async with asyncio.timeout_at(deadline):
                item = await self._pieces.get()
        except TimeoutError:
            raise error from None
        if isinstance(item, Exception):
            raise item
        return item

    async def results(self) -> list[Result]:
        """Every choice, when all have ended."""
        texts: list[list[str]] = [[] for _ in self.choices]
        async for index, piece in self:
            texts[index].append(piece.text)
        return [
            Result("".join(pieces), choice.stats.generated_tokens, choice.stats.finish_reason or "")
            for pieces, choice in zip(texts, self.choices, strict=True)
        ]

    def abort(self, error: ApiError) -> None:
        """Ends what still runs; reading the pieces raises the error."""
        for index in list(self._running):
            self._end(index)
        self._pieces.put_nowait(error)

    def _admit(self, index: int, cached_tokens: int) -> None:
        if index in self._running:  # else cancelled while the event was on its way
            self.choices[index].admit(cached_tokens)

    def _receive(self, index: int, event: TokenEvent | Exception) -> None:
        if index not in self._running:  # cancelled as well
            return
        choice = self.choices[index]
        try:
            if isinstance(event, Exception):
                raise event
            self._pieces.put_nowait((index, choice.receive(event)))
        except Exception as error:
            self._pieces.put_nowait(error)
            self._end(index)
            return
        if choice.stats.finish_reason:
            self._end(index, is_done=event.finish is not None)

    def _end(self, index: int, *, is_done: bool = False) -> None:
        """Ends a choice; cancels its request unless `is_done`, when the engine has freed the slot itself."""
        request_id = self._running.pop(index)
        if not is_done:
            self._engine.cancel(request_id)
        self.choices[index].end()

    def _next_deadline(self) -> tuple[float, ApiError]:
        total = self._arrived + self._deadlines.total
        if all(choice.stats.first_token is not None for choice in self.choices):
            return total, DeadlineExceeded(f"The answer took longer than {self._deadlines.total:g} seconds.")
        first = self._arrived + self._deadlines.first_token
        if all(choice.stats.admitted is not None for choice in self.choices):
            return min(first, total), DeadlineExceeded(
                f"The first token took longer than {self._deadlines.first_token:g} seconds."
            )
        return min(self._arrived + self._deadlines.queue, first, total), Unavailable(
            f"The request waited {self._deadlines.queue:g} seconds for a batch slot; try again later.",
            code="queue_timeout",
        )
