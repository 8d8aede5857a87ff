"""The texts of one HTTP request that are embedded, some of them at a time."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from server.generation.engine_work import EngineWork, WorkContext


class EmbeddingWork(EngineWork):
    """Texts to embed; `results` has their vectors.

    Args:
        prompts: ids of the texts, which the engine can take.
    """

    def __init__(self, context: WorkContext, prompts: Sequence[Sequence[int]]) -> None:
        super().__init__(replace(context, deadlines=replace(context.deadlines, first_token=math.inf)))
        self._vectors: dict[int, np.ndarray] = {}
        self._remaining = deque(prompts)

    def submit(self, at_once: int) -> None:
        """Begins, with so many of the texts; each that ends is followed by another."""
        for _ in range(at_once):
            self._submit_next()

    def log_fields(self) -> dict[str, Any]:
        return {"prompt_tokens": self.prompt_tokens}

    async def results(self) -> list[np.ndarray]:
        """The vector of each text, [D], when all are there.

        Raises:
            ApiError: a deadline has passed, or the work was aborted.
            Exception: a text failed in the engine.
        """
        await self._until(lambda: False)
        return [self._vectors[index] for index in range(len(self.stats))]

    def _receive(self, index: int, event: np.ndarray) -> None:
        self._vectors[index] = event
        self.stats[index].finish_reason = "stop"
        for observer in self._observers:
            observer.on_embedded(self.stats[index])
        self._end(index, is_done=True)
        if self._remaining:
            self._submit_next()

    def _submit_next(self) -> None:
        ids = self._remaining.popleft()
        self._submit(
            len(ids),
            lambda hand_over: self._engine.embed(
                ids,
                hand_over,
                hand_over,
                tenant=self.account.name,
                priority=self.account.priority(0),
                adapter=self._adapter,
            ),
        )
