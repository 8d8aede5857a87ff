"""Between text and the engine: a prompt becomes a request, token events become pieces of text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_jax.config import ModelConfig
from llm_jax.errors import RequestError
from llm_jax.inference.engine.request import FinishReason, Request, SamplingParams, TokenEvent
from llm_jax.tokenizers import IncrementalDecoder, Tokenizer

PRIMING = 8  # ids of the prompt that the decoder sees first: enough to know what precedes the completion


class ContextLengthExceeded(RequestError):
    """The prompt and the tokens asked for do not fit the context together."""


def prepare_request(
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    sampling: SamplingParams,
    *,
    truncate: bool,
    max_len: int | None = None,
) -> Request:
    """Encodes a prompt and makes it fit.

    The tokenizer's end-of-text id joins the stop ids. An empty prompt starts from the tokenizer's BOS.

    Args:
        truncate: keep the right end of a prompt that is too long; refuse it otherwise.
        max_len: the engine's context, where it is shorter than the model's.

    Raises:
        ContextLengthExceeded: it cannot fit.
        RequestError: the prompt is empty and there is no BOS.
        UnknownToken: a character is not in the vocabulary.
    """
    context = min(max_len or config.max_seq_len, config.max_seq_len)
    room = context - sampling.max_new_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"max_new_tokens is {sampling.max_new_tokens}; this model's context of {context} tokens leaves room for "
            f"at most {context - 1} beside a prompt.",
            "max_new_tokens",
        )
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not ids:
        if tokenizer.bos_token_id is None:
            raise RequestError("The prompt is empty, and this tokenizer has no BOS to start from; give text.", "prompt")
        ids = [tokenizer.bos_token_id]
    if len(ids) > room:
        if not truncate:
            raise ContextLengthExceeded(
                f"The prompt has {len(ids)} tokens and {sampling.max_new_tokens} more are asked for; this model's "
                f"context is {context} tokens. Shorten the prompt or ask for fewer.",
                "prompt",
            )
        ids = ids[-room:]
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in sampling.stop_ids:
        sampling = replace(sampling, stop_ids=(*sampling.stop_ids, tokenizer.eos_token_id))
    return Request(prompt_ids=tuple(ids), sampling=sampling)


@dataclass(frozen=True)
class TextPiece:
    """New text, the tokens that were taken in for it, and the reason on a stream's last piece."""

    text: str
    tokens: tuple[TokenEvent, ...]
    finish_reason: FinishReason | None


class TextStream:
    """Turns one request's token events into text as they come.

    Only whole characters come out. Text that may be the beginning of a stop string is held back until it is known
    not to be; at a stop string the text ends before it. A stop id contributes no text.

    Args:
        prompt_ids: what the text continues; its end decides, for instance, whether a space comes first.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, prompt_ids: Sequence[int] = ()) -> None:
        self._decoder = IncrementalDecoder(tokenizer)
        for token in prompt_ids[-PRIMING:]:
            self._decoder.push(token)
        self._stop = tuple(s for s in stop if s)
        self._held = ""
        self._tokens: list[TokenEvent] = []
        self.token_count = 0

    def push(self, event: TokenEvent) -> TextPiece:
        """The text that this token makes certain. After a piece with a finish_reason, push no more."""
        self.token_count += 1
        self._tokens.append(event)
        if event.finish != "stop":
            self._held += self._decoder.push(event.token)
        if event.finish is not None:
            self._held += self._decoder.flush()
        cut = min((at for at in map(self._held.find, self._stop) if at >= 0), default=None)
        if cut is not None:
            return self._release(cut, "stop")
        if event.finish is not None:
            return self._release(len(self._held), event.finish)
        return self._release(len(self._held) - self._could_begin_stop(), None)

    def _could_begin_stop(self) -> int:
        """The length of the longest end of the held text with which some stop string begins."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-n:]) for s in self._stop):
                return n
        return 0

    def _release(self, end: int, reason: FinishReason | None) -> TextPiece:
        text, self._held = self._held[:end], self._held[end:]
        tokens, self._tokens = tuple(self._tokens), []
        return TextPiece(text, tokens, reason)
