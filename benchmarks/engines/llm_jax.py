"""This project's engine as the server runs it: batching, sampling, events and all."""

import time
from functools import partial
from typing import ClassVar

from jax.profiler import TraceAnnotation

from benchmarks.engines.interface import Decoding, prompts
from benchmarks.weights import Weights
from llm_jax.inference import Engine, Request, SamplingParams, TokenEvent
from llm_jax.kernels import WeightDtype

TIMED = "timed"  # marks in a profile what the figures count


class Ours:
    name: ClassVar[str] = "llm"
    note = ""

    def __init__(self, weights: Weights, dtype: WeightDtype, *, max_batch: int, max_len: int) -> None:
        # Guessing is off: random weights soon repeat themselves, and it would shine more than on any text.
        self._engine = Engine(
            weights.model(), max_batch=max_batch, max_len=max_len, dtype=dtype, prefix_tokens=max_len, speculate=False
        )
        self._vocab_size = weights.config.vocab_size
        self._prefills = 0

    def prefill(self, tokens: int) -> float:
        self._prefills += 1
        [prompt] = prompts(1, tokens, self._vocab_size)
        first: list[int] = []
        with TraceAnnotation(TIMED):
            start = time.perf_counter()
            self._submit(prompt, 1, first, salt=str(self._prefills))  # a salt of its own: nothing is reused
            while not first:
                self._engine.step()
            return time.perf_counter() - start

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        given = prompts(batch, context, self._vocab_size)
        self._submit(given[0], 1, [])  # alone: what all have in common is there to reuse from now on
        while self._engine.step():
            pass
        rows: list[list[int]] = [[] for _ in range(batch)]
        room = self._engine.max_len - context
        tickets = [self._submit(prompt, room, row) for prompt, row in zip(given, rows, strict=True)]
        while not all(rows):
            self._engine.step()
        before = sum(map(len, rows))
        with TraceAnnotation(TIMED):
            start = time.perf_counter()
            for _ in range(steps):
                self._engine.step()
            seconds = time.perf_counter() - start
        assert sum(map(len, rows)) - before == batch * steps, "a row ended before the clock did: max_len is too short"
        for ticket in tickets:
            self._engine.cancel(ticket)
        while self._engine.step():
            pass
        return Decoding(batch * steps / seconds, rows)

    def close(self) -> None:
        self._engine.close()
        del self._engine

    def _submit(self, prompt: list[int], limit: int, row: list[int], salt: str = "") -> int:
        sampling = SamplingParams(max_new_tokens=limit, temperature=0.0)
        return self._engine.submit(Request(prompt_ids=tuple(prompt), sampling=sampling, salt=salt), partial(_take, row))


def _take(row: list[int], event: TokenEvent | Exception) -> None:
    if isinstance(event, Exception):
        raise event
    row.append(event.token)
