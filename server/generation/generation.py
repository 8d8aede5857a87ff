"""The choices of one HTTP request, as deltas that arrive on the event loop."""

from typing import Any, Self

from llm_jax.inference import Request, TokenEvent
from server.generation.choice_stream import ChoiceStream
from server.generation.choice_text import ChoiceText
from server.generation.deltas import Choice, Delta
from server.generation.engine_work import EngineWork, WorkContext

Batch = list[tuple[int, Delta]]  # indices of choices, each with what it gained


class Generation(EngineWork):
    """Iterates over batches of (index of the choice, delta)."""

    def __init__(self, context: WorkContext) -> None:
        super().__init__(context)
        self._choices: list[ChoiceStream] = []
        self._batch: Batch = []

    def submit(self, request: Request, text: ChoiceText) -> None:
        """Adds a choice: the request goes to the engine, its tokens to `text`."""
        self._submit(len(request.prompt_ids), lambda hand_over: self._engine.submit(request, hand_over, hand_over))
        self._choices.append(ChoiceStream(self.stats[-1], text, self._observers))

    def usage(self, *, prompts: int) -> dict[str, Any]:
        """As OpenAI's answers have it: a prompt counts once, however many choices it has."""
        stats = self.stats[:: len(self.stats) // prompts]
        prompt = sum(stat.prompt_tokens for stat in stats)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(stat.cached_tokens for stat in stats)},
        }

    def log_fields(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        await self.ready()
        if not self._batch:
            raise StopAsyncIteration
        batch, self._batch = self._batch, []
        return batch

    async def ready(self, within: float | None = None) -> bool:
        """Waits for the next batch or the end; False where it took longer than `within` seconds.

        Raises:
            ApiError: a deadline has passed, or the generation was aborted.
            Exception: a request failed in the engine.
        """
        return await self._until(lambda: bool(self._batch), within)

    async def results(self) -> list[Choice]:
        """Every choice, when all have ended."""
        deltas: list[list[Delta]] = [[] for _ in self.stats]
        async for batch in self:
            for index, delta in batch:
                deltas[index].append(delta)
        return [Choice.of(ours) for ours in deltas]

    def _receive(self, index: int, event: TokenEvent) -> None:
        delta = self._choices[index].receive(event)
        if not delta.is_empty:
            self._batch.append((index, delta))
        if delta.finish_reason:
            self._end(index, is_done=event.finish is not None)
