"""What goes into the engine and what comes out of it."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llm_jax.errors import RequestError
from llm_jax.inference.lookup import PromptLookup
from llm_jax.inference.sampling import SamplingParams

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to continue, and how.

    Attributes:
        prompt_ids: at least one.
        mask: called with the ids generated so far before each choice; gives the allowed tokens as bool [V], or
            None for all (grammars).
        salt: computed prompts are shared between requests of the same salt only (one per tenant).
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    mask: Callable[[Sequence[int]], np.ndarray | None] | None = None
    salt: str = ""

    def check(self, vocab_size: int, max_len: int) -> None:
        """Raises RequestError if a model of this vocabulary and context cannot run the request."""
        prompt, sampling = self.prompt_ids, self.sampling
        if not prompt:
            raise RequestError("The prompt has no tokens; give at least one.", "prompt")
        if len(prompt) + sampling.max_new_tokens > max_len:
            raise RequestError(
                f"The prompt has {len(prompt)} tokens and max_new_tokens is {sampling.max_new_tokens}; together they "
                f"must fit the context of {max_len}.",
                "max_new_tokens",
            )
        for name, ids in (("prompt", prompt), ("logit_bias", sampling.logit_bias or ())):
            outside = next((i for i in ids if not 0 <= i < vocab_size), None)
            if outside is not None:
                raise RequestError(
                    f"{name} holds token id {outside}; ids of this model are 0 to {vocab_size - 1}.", name
                )  # fmt: skip


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        logprob, top_logprobs: None and () unless the request wants them; alternatives are (id, log-probability).
        finish: set on a request's last token: "stop" at a stop id, "length" at max_new_tokens.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: FinishReason | None = None


OnEvent = Callable[[TokenEvent | Exception], None]


@dataclass(eq=False)
class Job:
    """A request on its way through the engine.

    Attributes:
        row: its place in the batch, -1 before it has one.
        held: tokens that its row holds, counting steps that are still under way.
        asked: tokens asked of the device so far, counting the same.
        generated: tokens that have arrived.
        saved: blocks of the prompt that the prefix cache was offered.
        is_over: finished, failed or cancelled; tokens under way for it are dropped.
    """

    ticket: int
    request: Request
    on_event: OnEvent
    on_admit: Callable[[], None]
    seed: int = 0
    row: int = -1
    held: int = 0
    asked: int = 0
    saved: int = 0
    generated: list[int] = field(default_factory=list)
    is_over: bool = False

    def __post_init__(self) -> None:
        seed = self.request.sampling.seed
        self.seed = secrets.randbits(63) if seed is None else seed
        self.lookup = PromptLookup(self.request.prompt_ids)

    @property
    def sequence(self) -> tuple[int, ...]:
        return (*self.request.prompt_ids, *self.generated)

    @property
    def wants_more(self) -> bool:
        return not self.is_over and self.asked < self.request.sampling.max_new_tokens

    def take(self, token: int) -> FinishReason | None:
        """Notes a token that arrived; says whether the request ends with it."""
        self.generated.append(token)
        self.lookup.push(token)
        if token in self.request.sampling.stop_ids:
            return "stop"
        return "length" if len(self.generated) >= self.request.sampling.max_new_tokens else None
