"""Greedy decoding by the engine, for comparison with other implementations."""

from collections.abc import Sequence

from llm_jax.inference import Engine, Request, SamplingParams, TokenEvent
from llm_jax.model import Model


def continue_greedily(model: Model, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """`count` new tokens for each prompt, all in one batch."""
    engine = Engine(model, max_batch=len(prompts))
    tokens: list[list[int]] = [[] for _ in prompts]

    def collect(row: int, event: TokenEvent | Exception) -> None:
        assert isinstance(event, TokenEvent)
        tokens[row].append(event.token)

    for row, prompt in enumerate(prompts):
        sampling = SamplingParams(max_new_tokens=count, temperature=0.0)
        engine.submit(Request(prompt_ids=tuple(prompt), sampling=sampling), lambda event, row=row: collect(row, event))
    while engine.step():
        pass
    return tokens
