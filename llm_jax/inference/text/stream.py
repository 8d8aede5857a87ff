"""Text around the engine: a prompt becomes a request, token events become pieces of text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llm_jax.config import ModelConfig
from llm_jax.errors import RequestError
from llm_jax.inference.engine import FinishReason, Request, SamplingParams, TokenEvent
from llm_jax.tokenizers import IncrementalDecoder, Tokenizer


def prepare_request(
    config: ModelConfig,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    sampling: SamplingParams,
    *,
    truncate: bool,
    add_special_tokens: bool = True,
    stop: Sequence[str] = (),
    ignore_eos: bool = False,
    max_len: int | None = None,
) -> Request:
    """The request that continues a prompt, as text or ids.

    The tokenizer's end-of-text id is added to the stop ids, unless `ignore_eos`. An empty prompt starts from the
    tokenizer's BOS.

    Args:
        truncate: keep the right end of a prompt that is too long, and the BOS before it; refuse it otherwise.
        add_special_tokens: to a prompt as text, those that the tokenizer's maker meant to surround it, such as a BOS.
            False for a rendered chat, whose template has written them.
        stop: strings that the text ends before. A special token among them is no text and joins the stop ids.
        max_len: the engine's context, where it is shorter than the model's.

    Raises:
        ContextLengthExceeded: prompt and max_new_tokens do not fit the context.
        RequestError: the prompt is empty and there is no BOS, or the model has no such token id.
        UnknownToken: a character is not in the vocabulary.
    """
    context = min(max_len or config.max_seq_len, config.max_seq_len)
    encode = tokenizer.encode_with_special_tokens if add_special_tokens else tokenizer.encode
    ids = encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not ids:
        if tokenizer.bos_token_id is None:
            raise RequestError("The prompt is empty, and this tokenizer has no BOS to start from; give text.", "prompt")
        ids = [tokenizer.bos_token_id]
    room = max(1, context - sampling.max_new_tokens)
    if truncate and len(ids) > room:
        bos = ids[:1] if ids[0] == tokenizer.bos_token_id and room > 1 else []
        ids = bos + ids[len(bos) - room :]
    ends = [None if ignore_eos else tokenizer.eos_token_id, *(tokenizer.hidden_tokens.get(string) for string in stop)]
    stop_ids = dict.fromkeys([*sampling.stop_ids, *(index for index in ends if index is not None)])
    sampling = replace(sampling, stop_ids=tuple(stop_ids))
    request = Request(prompt_ids=tuple(ids), sampling=sampling)
    request.check(config.vocab_size, context)
    return request


@dataclass(frozen=True)
class TextPiece:
    """New text of a stream.

    Attributes:
        tokens: the events since the piece before.
        finish_reason: set on a stream's last piece.
        stop: the stop string that ended it.
    """

    text: str
    tokens: tuple[TokenEvent, ...]
    finish_reason: FinishReason | None
    stop: str | None = None


class TextStream:
    """Turns one request's token events into text as they arrive.

    Only whole characters come out. Text that may be the beginning of a stop string is withheld until it is known not to
    be one; at a stop string the text ends before it. A stop id contributes no text.

    Args:
        stop: strings that the text ends before.
        prompt_ids: of the prompt; its end decides, for instance, whether the text begins with a space.
        prefix: removed from the first text that comes out, where that begins with it.
        min_tokens: stop strings count in what comes after so many tokens.
        shown: special tokens that are text here, id to written form.

    Attributes:
        token_count: events so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        prompt_ids: Sequence[int] = (),
        prefix: str = "",
        min_tokens: int = 0,
        shown: Mapping[int, str] | None = None,
    ) -> None:
        self._decoder = IncrementalDecoder(tokenizer, prompt_ids)
        self._stop = tuple(s for s in stop if s)
        self._stop_tokens = {tokenizer.hidden_tokens[s]: s for s in self._stop if s in tokenizer.hidden_tokens}
        self._prefix = prefix
        self._min_tokens = min_tokens
        self._shown = shown or {}
        self._withheld = ""
        self._tokens: list[TokenEvent] = []
        self.token_count = 0

    def push(self, event: TokenEvent) -> TextPiece:
        """The text that can be emitted after this token. After a piece with a finish_reason, push no more."""
        self.token_count += 1
        self._tokens.append(event)
        if event.finish != "stop":
            self._withheld += self._decoder.push(event.token) + self._shown.get(event.token, "")
        if event.finish is not None:
            self._withheld += self._decoder.flush()
        if self.token_count < self._min_tokens and event.finish is None:
            return self._release(len(self._withheld), None)
        cut, stop = min(((at, s) for s in self._stop if (at := self._withheld.find(s)) >= 0), default=(None, None))
        if cut is not None:
            return self._release(cut, "stop", stop)
        if event.finish is not None:
            return self._release(len(self._withheld), event.finish, self._stop_tokens.get(event.token))
        return self._release(len(self._withheld) - self._could_begin_stop(), None)

    def _could_begin_stop(self) -> int:
        """The length of the longest end of the withheld text with which some stop string begins."""
        longest = max((len(s) for s in self._stop), default=1) - 1
        for n in range(min(longest, len(self._withheld)), 0, -1):
            if any(s.startswith(self._withheld[-n:]) for s in self._stop):
                return n
        return 0

    def _release(self, end: int, reason: FinishReason | None, stop: str | None = None) -> TextPiece:
        text, self._withheld = self._withheld[:end], self._withheld[end:]
        if text:
            text, self._prefix = text.removeprefix(self._prefix), ""
        tokens, self._tokens = tuple(self._tokens), []
        return TextPiece(text, tokens, reason, stop)
