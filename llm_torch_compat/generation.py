"""generate, stream_generate and batch_generate for a DecoderModel."""

from collections.abc import Iterator, Sequence
from typing import Any

from llm_jax import inference
from llm_jax.tokenizers import Tokenizer
from llm_torch_compat.decoder import DecoderModel


def generate(
    model: DecoderModel,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    **options: Any,
) -> str:
    """The prompt and its continuation. `llm_jax.inference.generate` says what the settings and options mean."""
    return inference.generate(
        model.as_jax(), tokenizer, prompt, max_new_tokens, temperature, top_k, top_p, repetition_penalty, **options
    )


def stream_generate(
    model: DecoderModel,
    tokenizer: Tokenizer,
    prompt: str,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    **options: Any,
) -> Iterator[str]:
    """Like `generate`, but yields the new text alone, as it is made."""
    return inference.stream_generate(
        model.as_jax(), tokenizer, prompt, max_new_tokens, temperature, top_k, top_p, repetition_penalty, **options
    )


def batch_generate(
    model: DecoderModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    **options: Any,
) -> list[str]:
    """`generate` for several prompts at once; each row equals what that prompt gives alone."""
    return inference.batch_generate(
        model.as_jax(), tokenizer, prompts, max_new_tokens, temperature, top_k, top_p, repetition_penalty, **options
    )
