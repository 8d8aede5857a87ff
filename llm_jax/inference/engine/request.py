"""What goes into the engine and what comes out of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llm_jax.errors import RequestError

FinishReason = Literal["stop", "length"]
MAX_LOGPROBS = 20  # OpenAI's bound on top_logprobs


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request wants its tokens chosen.

    The order is the field's usual one: penalties and bias, temperature, top-k, top-p, min-p, then a draw.

    Attributes:
        max_new_tokens: at least 1.
        temperature: 0 is greedy; logits are divided by it otherwise.
        top_k: keep the k most likely tokens. None or 0 keeps all.
        top_p: keep the most likely tokens until their mass reaches p, in (0, 1] (arXiv:1904.09751).
        min_p: keep tokens at least min_p times as likely as the most likely one, in [0, 1] (arXiv:2407.01082).
        repetition_penalty: positive logits of seen tokens are divided by it, negative ones multiplied; over
            prompt and generated tokens (CTRL, arXiv:1909.05858). Above 0; 1 is off.
        presence_penalty, frequency_penalty: OpenAI's additive rule over generated tokens, -2 to 2.
        logit_bias: added to the logits of these ids, -100 to 100.
        seed: the same seed gives the same tokens. None draws a fresh one.
        stop_ids: generation ends when one of these is chosen.
        logprobs: report the chosen token's log-probability and this many alternatives, 0 to 20. None reports none.
    """

    max_new_tokens: int = 50
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    seed: int | None = None
    stop_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check("max_new_tokens", lambda n: n >= 1, "at least 1")
        self._check("temperature", lambda t: 0 <= t < math.inf, "0 (greedy) or above")
        self._check("top_k", lambda k: k >= 0, "at least 1, or unset")
        self._check("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1")
        self._check("min_p", lambda p: 0 <= p <= 1, "0 to 1")
        self._check("repetition_penalty", lambda r: 0 < r < math.inf, "above 0 (1 is off)")
        self._check("presence_penalty", lambda p: -2 <= p <= 2, "-2 to 2")
        self._check("frequency_penalty", lambda p: -2 <= p <= 2, "-2 to 2")
        self._check("logprobs", lambda n: 0 <= n <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}, or unset")
        for token, bias in (self.logit_bias or {}).items():
            if not -100 <= bias <= 100:
                raise RequestError(f"logit_bias of token {token} is {bias}; it must be -100 to 100.", "logit_bias")

    @property
    def adjusts_logits(self) -> bool:
        penalised = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalised or bool(self.logit_bias)

    def _check(self, name: str, holds: Callable[[float], bool], allowed: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise RequestError(f"{name} is {value}; it must be {allowed}.", name)


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
