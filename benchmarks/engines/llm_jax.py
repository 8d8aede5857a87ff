"""This project's engine as the server runs it, with batching, sampling and events."""

import time
from functools import partial
from typing import ClassVar

from jax.profiler import TraceAnnotation

from benchmarks.engines.interface import Decoding, prompts
from benchmarks.weights import Weights
from llm_jax.inference import Engine, Request, SamplingParams, TokenEvent
from llm_jax.model import ModelDtype

TIMED = "timed"  # the annotation, in a profile, of the span that the figures count


class LlmJax:
    name: ClassVar[str] = "llm"
    note = ""

    def __init__(self, weights: Weights, dtype: ModelDtype, *, max_batch: int, max_len: int) -> None:
        # Prompt lookup is off: random weights soon repeat themselves, and it would gain more than on any text.
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
            self._submit(prompt, 1, first, salt=str(self._prefills))  # a new salt: no cached prefix is reused
            while not first:
                self._engine.step()
            return time.perf_counter() - start

    def decode(self, batch: int, context: int, steps: int) -> Decoding:
        given = prompts(batch, context, self._vocab_size)
        self._submit(given[0], 1, [])  # caches the prefix that all prompts share
        while self._engine.step():
            pass
        made: list[list[int]] = [[] for _ in range(batch)]
        limit = self._engine.max_len - context
        requests = [self._submit(prompt, limit, tokens) for prompt, tokens in zip(given, made, strict=True)]
        while not all(made):
            self._engine.step()
        before, target = sum(map(len, made)), min(map(len, made)) + steps
        assert target < limit, "max_len is too short"
        with TraceAnnotation(TIMED):
            start = time.perf_counter()
            while min(map(len, made)) < target:  # a step may decode several tokens
                self._engine.step()
            seconds = time.perf_counter() - start
        rate = (sum(map(len, made)) - before) / seconds
        for request in requests:
            self._engine.cancel(request)
        while self._engine.step():
            pass
        return Decoding(rate, made)

    def close(self) -> None:
        self._engine.close()
        del self._engine

    def _submit(self, prompt: list[int], limit: int, made: list[int], salt: str = "") -> int:
        sampling = SamplingParams(max_new_tokens=limit, temperature=0.0)
        request = Request(prompt_ids=tuple(prompt), sampling=sampling, salt=salt)
        return self._engine.submit(request, partial(_collect, made))


def _collect(made: list[int], event: TokenEvent | Exception) -> None:
    if isinstance(event, Exception):
        raise event
    made.append(event.token)
