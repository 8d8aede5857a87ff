"""One choice on the engine: its tokens become deltas, and its observers are told of them."""

import time
from collections.abc import Sequence

from llm_jax.inference import TokenEvent
from server.generation.choice_text import ChoiceText
from server.generation.deltas import Delta
from server.observers import Observer, RequestStats


class ChoiceStream:
    """One engine request, from its submission to its last token."""

    def __init__(self, stats: RequestStats, text: ChoiceText, observers: Sequence[Observer]) -> None:
        self.stats = stats
        self._text = text
        self._observers = observers

    def receive(self, event: TokenEvent) -> Delta:
        """What can be sent after this token."""
        previous, now = self.stats.last_token, time.perf_counter()
        self.stats.last_token = now
        self.stats.generated_tokens += not self._text.is_empty
        if previous is None:
            self.stats.first_token = now
            for observer in self._observers:
                observer.on_first_token(self.stats)
        else:
            for observer in self._observers:
                observer.on_next_token(self.stats, now - previous)
        delta = self._text.push(event)
        self.stats.finish_reason = delta.finish_reason
        return delta
