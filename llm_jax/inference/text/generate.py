"""Text in, text out, on top of the engine: one prompt, a stream, or a batch."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypedDict, Unpack

from llm_jax.inference.engine.engine import Engine
from llm_jax.inference.engine.request import Request, SamplingParams, TokenEvent
from llm_jax.inference.text.stream import TextPiece, TextStream, prepare_request
from llm_jax.kernels import WeightDtype
from llm_jax.model import Model
from llm_jax.tokenizers import Tokenizer

MAX_ROWS = 16  # prompts that run at a time; the rest follow as rows become free
CONTEXT_STEP = 256  # caches are sized in multiples of this, so that calls of similar length share compiled programs


class Extras(TypedDict, total=False):
    """The less common settings of `SamplingParams`, taken as keywords."""

    min_p: float | None
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[int, float] | None
    seed: int | None


def generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    *,
    stop: str | Sequence[str] | None = None,
    use_cache: bool = True,
    **extras: Unpack[Extras],
) -> str:
    """The prompt and its continuation.

    A prompt longer than `max_seq_len - max_new_tokens` keeps its right end for the model; the returned string
    still starts with the whole prompt. Generation ends at the tokenizer's end-of-text, before a stop string, or
    after max_new_tokens. `SamplingParams` says what the settings mean and which values they take.

    Raises:
        RequestError: a setting is out of range, or the prompt cannot be continued.
        UnknownToken: the tokenizer does not know a character of the prompt.
    """
    return batch_generate(
        model, tokenizer, [prompt], max_new_tokens, temperature, top_k, top_p, repetition_penalty,
        stop=stop, use_cache=use_cache, **extras,
    )[0]  # fmt: skip


def batch_generate(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    *,
    stop: str | Sequence[str] | None = None,
    use_cache: bool = True,
    **extras: Unpack[Extras],
) -> list[str]:
    """`generate` for several prompts at once; each row equals what that prompt gives alone with the same seed."""
    sampling = SamplingParams(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, **extras,
    )  # fmt: skip
    texts = list(prompts)
    for index, piece in continue_prompts(model, tokenizer, prompts, sampling, stop=stop, use_cache=use_cache):
        texts[index] += piece.text
    return texts


def stream_generate(
    model: Model,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    *,
    stop: str | Sequence[str] | None = None,
    use_cache: bool = True,
    **extras: Unpack[Extras],
) -> Iterator[str]:
    """Like `generate`, but yields the new text alone, piece by piece, whole characters only."""
    sampling = SamplingParams(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
        repetition_penalty=repetition_penalty, **extras,
    )  # fmt: skip
    pieces = continue_prompts(model, tokenizer, [prompt], sampling, stop=stop, use_cache=use_cache)
    return (piece.text for _, piece in pieces if piece.text)


def continue_prompts(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingParams,
    *,
    stop: str | Sequence[str] | None = None,
    use_cache: bool = True,
    dtype: WeightDtype = "float32",
) -> Iterator[tuple[int, TextPiece]]:
    """Yields (index of the prompt, its next piece) as the engine makes them; a piece's text may be empty.

    What the other three functions rest on. Every prompt is checked before any runs. `dtype` is what the engine keeps
    weights in.
    """
    requests = [prepare_request(model.config, tokenizer, prompt, sampling, truncate=True) for prompt in prompts]
    longest = max((len(request.prompt_ids) for request in requests), default=0) + sampling.max_new_tokens
    engine = Engine(
        model,
        max_batch=min(len(prompts), MAX_ROWS) or 1,
        max_len=round_up(longest),
        dtype=dtype,
        use_cache=use_cache,
    )
    return run_requests(engine, tokenizer, requests, [stop] if isinstance(stop, str) else list(stop or ()))


def run_requests(
    engine: Engine, tokenizer: Tokenizer, requests: Sequence[Request], stop: Sequence[str]
) -> Iterator[tuple[int, TextPiece]]:
    """Yields (index of the request, its next piece). What still runs when the iteration is broken off is cancelled."""
    arrived: list[tuple[int, TokenEvent | Exception]] = []
    streams = [TextStream(tokenizer, stop, prompt_ids=request.prompt_ids) for request in requests]

    def hear(index: int, event: TokenEvent | Exception) -> None:
        arrived.append((index, event))

    tickets = [engine.submit(request, partial(hear, index)) for index, request in enumerate(requests)]
    try:
        while engine.step() or arrived:
            for index, event in arrived:
                if isinstance(event, Exception):
                    raise event
                piece = streams[index].push(event)
                if piece.finish_reason == "stop" and event.finish is None:
                    engine.cancel(tickets[index])
                yield index, piece
            arrived.clear()
    finally:
        for ticket in tickets:
            engine.cancel(ticket)


def round_up(tokens: int) -> int:
    """The size of a cache that holds so many tokens."""
    return -(-tokens // CONTEXT_STEP) * CONTEXT_STEP
