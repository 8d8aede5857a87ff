"""Requests and token events: the engine's input and output."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from llm_jax.errors import RequestError

FinishReason = Literal["stop", "length"]
MAX_LOGPROBS = 20  # OpenAI's bound on top_logprobs


class ContextLengthExceeded(RequestError):
    """The prompt and the tokens to generate do not fit the context together."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Sampling settings of one request.

    They apply in this order: penalties and bias, temperature, top-k, top-p, min-p, then a draw.

    >>> SamplingParams(temperature=0.8, top_p=0.95).max_new_tokens
    50
    >>> SamplingParams(temperature=-1)
    Traceback (most recent call last):
    llm_jax.errors.RequestError: temperature is -1; it must be 0 (greedy) or above.

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
        stop_ids: generation ends when one of these is sampled.
        min_new_tokens: before so many none of `stop_ids` is sampled, unless a constraint leaves nothing else.
        logprobs: report the sampled token's log-probability and this many alternatives, 0 to 20. None reports none.
        prompt_logprobs: likewise for the tokens of the prompt.

    Raises:
        RequestError: a setting is out of range.
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
    min_new_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        self._check("max_new_tokens", lambda n: n >= 1, "at least 1")
        self._check("temperature", lambda t: 0 <= t < math.inf, "0 (greedy) or above")
        self._check("top_k", lambda k: k >= 0, "at least 1, or unset")
        self._check("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1")
        self._check("min_p", lambda p: 0 <= p <= 1, "0 to 1")
        self._check("repetition_penalty", lambda r: 0 < r < math.inf, "above 0 (1 is off)")
        self._check("presence_penalty", lambda p: -2 <= p <= 2, "-2 to 2")
        self._check("frequency_penalty", lambda p: -2 <= p <= 2, "-2 to 2")
        self._check("min_new_tokens", lambda n: 0 <= n <= self.max_new_tokens, f"0 to {self.max_new_tokens}")
        self._check("logprobs", lambda n: 0 <= n <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}, or unset")
        self._check("prompt_logprobs", lambda n: 0 <= n <= MAX_LOGPROBS, f"0 to {MAX_LOGPROBS}, or unset")
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


class Constraint(Protocol):
    """Which tokens of one request may come next."""

    def mask(self, generated: Sequence[int]) -> np.ndarray | None:
        """The allowed tokens, at least one: uint32 words, bit i of word j for token 32 j + i. None allows all.

        The engine calls it before each token, with all tokens generated so far; from any thread, but one call at a
        time. It may ask twice for the same tokens, and begin again with fewer. An exception ends the request, whose
        last event it becomes.
        """
        ...


@dataclass(frozen=True)
class AllowedTokens:
    """A constraint that is a function of the ids generated so far.

    >>> AllowedTokens(lambda generated: np.arange(40) == 33).mask([])
    array([0, 2], dtype=uint32)

    Attributes:
        function: returns the allowed tokens as bool [V], or None for all.
    """

    function: Callable[[Sequence[int]], np.ndarray | None]

    def mask(self, generated: Sequence[int]) -> np.ndarray | None:
        allowed_V = self.function(generated)
        if allowed_V is None:
            return None
        packed = np.packbits(allowed_V, bitorder="little")
        return np.pad(packed, (0, -len(packed) % 4)).view("<u4")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt to continue, and how.

    Attributes:
        prompt_ids: at least one.
        constraint: which tokens may come next, a grammar for example.
        salt: cached prompt beginnings are shared between requests of the same salt only.
        tenant: on whose behalf; requests of different tenants get equal shares of the engine.
        priority: less is earlier, see `scheduler`; 0 unless given.
        is_embedding: nothing is generated; see `Engine.embed`.
        adapter: the name of one of the engine's adapters, see `Engine.add_adapter`; empty is the model alone.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams
    constraint: Constraint | None = None
    salt: str = ""
    tenant: str = ""
    priority: int = 0
    is_embedding: bool = False
    adapter: str = ""

    @property
    def most_tokens(self) -> int:
        """Tokens that prompt and completion can have together."""
        return len(self.prompt_ids) + (0 if self.is_embedding else self.sampling.max_new_tokens)

    @property
    def reads_prompt(self) -> bool:
        """Whether the hidden states of all prompt tokens are needed: then all are computed."""
        return self.is_embedding or self.sampling.prompt_logprobs is not None

    def check(self, vocab_size: int, max_len: int) -> None:
        """Decides whether a model of this vocabulary and context can run the request.

        Raises:
            ContextLengthExceeded: prompt and max_new_tokens exceed `max_len`.
            RequestError: the prompt is empty, or a token id is outside the vocabulary.
        """
        length, new = len(self.prompt_ids), 0 if self.is_embedding else self.sampling.max_new_tokens
        if self.is_embedding and length > max_len:
            message = f"The text has {length} tokens; it must fit the context of {max_len}. Shorten it."
            raise ContextLengthExceeded(message, "prompt")
        if new >= max_len:
            raise ContextLengthExceeded(
                f"max_new_tokens is {new}; a context of {max_len} tokens takes at most {max_len - 1} beside a prompt.",
                "max_new_tokens",
            )
        if length + new > max_len:
            raise ContextLengthExceeded(
                f"The prompt has {length} tokens and max_new_tokens is {new}; together they must fit the context of "
                f"{max_len}. Shorten it or ask for fewer.",
                "prompt",
            )
        if not length:
            raise RequestError("The prompt has no tokens; give at least one.", "prompt")
        for name, ids in (("prompt", self.prompt_ids), ("logit_bias", self.sampling.logit_bias or ())):
            unknown = next((i for i in ids if not 0 <= i < vocab_size), None)
            if unknown is not None:
                message = f"{name} holds token id {unknown}; ids of this model are 0 to {vocab_size - 1}."
                raise RequestError(message, name)


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a prompt, its log-probability behind the tokens before it, and the most likely ones (id, value)."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        logprob, top_logprobs: None and () unless the request asks for them; alternatives are (id, log-probability).
        finish: set on a request's last token: "stop" at a stop id, "length" at max_new_tokens.
        prompt: on the first token, where the request asks for them: the prompt's tokens behind its first.
    """

    token: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()
    finish: FinishReason | None = None
    prompt: tuple[TokenLogprob, ...] = ()


OnEvent = Callable[[TokenEvent | Exception], None]
OnEmbedding = Callable[[np.ndarray | Exception], None]  # float32 [D]
