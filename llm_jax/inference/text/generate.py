"""Text in, text out, on top of the engine: one prompt, a stream, or a batch."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TypedDict, Unpack

from llm_jax.inference.engine import Engine, Request, SamplingParams, TokenEvent
from llm_jax.inference.text.stream import TextPiece, TextStream, prepare_request
from llm_jax.model import Model, ModelDtype
from llm_jax.tokenizers import Tokenizer

_MAX_BATCH = 16  # prompts that run at a time, so that memory is bounded; the others wait for a slot
_LEAST_CONTEXT = 256  # tokens; contexts are powers of two from here on, so that calls share compiled programs


class _SamplingKeywords(TypedDict, total=False):
    """The less common settings of `SamplingParams`."""

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
    add_special_tokens: bool = True,
    **others: Unpack[_SamplingKeywords],
) -> str:
    """The prompt and its continuation.

    >>> from llm_jax import checkpoint, demo
    >>> loaded = checkpoint.load_model(demo.PATH)
    >>> generate(loaded.model, loaded.tokenizer, "Once upon a", max_new_tokens=1, temperature=0)
    'Once upon a time'

    The special tokens that the tokenizer's maker meant to surround a text, such as a BOS, are added to the prompt,
    unless `add_special_tokens` is False. A prompt longer than `max_seq_len - max_new_tokens` keeps its right end for
    the model; the returned string still starts with the whole prompt. Generation ends at the tokenizer's end-of-text,
    before a stop string, or after max_new_tokens. `SamplingParams` says what the settings mean and which values they
    take.

    Raises:
        RequestError: a setting is out of range, or the prompt cannot be continued.
        UnknownToken: the tokenizer does not know a character of the prompt.
    """
    [text] = batch_generate(
        model,
        tokenizer,
        [prompt],
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        repetition_penalty,
        stop=stop,
        use_cache=use_cache,
        add_special_tokens=add_special_tokens,
        **others,
    )
    return text


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
    add_special_tokens: bool = True,
    **others: Unpack[_SamplingKeywords],
) -> list[str]:
    """`generate` for several prompts at once; each text equals what its prompt gives alone with the same seed.

    >>> from llm_jax import checkpoint, demo
    >>> loaded = checkpoint.load_model(demo.PATH)
    >>> batch_generate(loaded.model, loaded.tokenizer, ["Once upon a", "The"], max_new_tokens=1, temperature=0)[0]
    'Once upon a time'
    """
    sampling = SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        **others,
    )
    texts = list(prompts)
    pieces = continue_prompts(
        model, tokenizer, prompts, sampling, stop=stop, use_cache=use_cache, add_special_tokens=add_special_tokens
    )
    for index, piece in pieces:
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
    add_special_tokens: bool = True,
    **others: Unpack[_SamplingKeywords],
) -> Iterator[str]:
    """Like `generate`, but yields the new text alone, piece by piece, whole characters only.

    >>> from llm_jax import checkpoint, demo
    >>> loaded = checkpoint.load_model(demo.PATH)
    >>> list(stream_generate(loaded.model, loaded.tokenizer, "Once upon a", max_new_tokens=1, temperature=0))
    [' time']
    """
    sampling = SamplingParams(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        **others,
    )
    pieces = continue_prompts(
        model, tokenizer, [prompt], sampling, stop=stop, use_cache=use_cache, add_special_tokens=add_special_tokens
    )
    return (piece.text for _, piece in pieces if piece.text)


def continue_prompts(
    model: Model,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: SamplingParams,
    *,
    stop: str | Sequence[str] | None = None,
    use_cache: bool = True,
    add_special_tokens: bool = True,
    dtype: ModelDtype = "float32",
) -> Iterator[tuple[int, TextPiece]]:
    """Yields (index of the prompt, its next piece) as they come; a piece's text may be empty.

    The other three functions are built on this one. Every prompt is checked before any runs.

    Args:
        add_special_tokens: as `prepare_request` takes it.
        dtype: weight dtype.

    Raises:
        RequestError, UnknownToken: see `prepare_request`.
    """
    stop_strings = [stop] if isinstance(stop, str) else list(stop or ())
    prepare = partial(prepare_request, truncate=True, add_special_tokens=add_special_tokens, stop=stop_strings)
    requests = [prepare(model.config, tokenizer, prompt, sampling) for prompt in prompts]
    longest = max((len(request.prompt_ids) for request in requests), default=0) + sampling.max_new_tokens
    engine = Engine(
        model,
        max_batch=min(len(prompts), _MAX_BATCH) or 1,
        max_len=cache_length(longest),
        dtype=dtype,
        use_cache=use_cache,
    )
    return run_requests(engine, tokenizer, requests, stop_strings)


def run_requests(
    engine: Engine, tokenizer: Tokenizer, requests: Sequence[Request], stop: Sequence[str], *, prefix: str = ""
) -> Iterator[tuple[int, TextPiece]]:
    """Yields (index of the request, its next piece). Requests that still run when the iteration ends are cancelled."""
    events: list[tuple[int, TokenEvent | Exception]] = []
    streams = [TextStream(tokenizer, stop, prompt_ids=request.prompt_ids, prefix=prefix) for request in requests]

    def on_event(index: int, event: TokenEvent | Exception) -> None:
        events.append((index, event))

    request_ids = [engine.submit(request, partial(on_event, index)) for index, request in enumerate(requests)]
    try:
        while engine.step() or events:
            for index, event in events:
                if isinstance(event, Exception):
                    raise event
                piece = streams[index].push(event)
                if piece.finish_reason == "stop" and event.finish is None:
                    engine.cancel(request_ids[index])
                yield index, piece
            events.clear()
    finally:
        for request_id in request_ids:
            engine.cancel(request_id)


def cache_length(tokens: int) -> int:
    """The length of a cache for so many tokens, rounded up."""
    return max(_LEAST_CONTEXT, 1 << (tokens - 1).bit_length())
