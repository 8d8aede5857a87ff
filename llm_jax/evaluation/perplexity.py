"""Perplexity of a text under a model, with bits per token and per byte, and next-token accuracy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError, DataError
from llm_jax.model import Model, ModelDtype, Params, cast_model, forward
from llm_jax.programs import program
from llm_jax.tokenizers import Tokenizer

_TOKENS_PER_CALL = 2048  # bounds the logits: 2048 * V floats


@dataclass(frozen=True)
class TextScore:
    """How well a model predicts a text, each token from those before it.

    Attributes:
        tokens: predicted ones: all but the first, which has none before it.
        bytes: of these tokens in UTF-8.
        loss: mean negative log-probability of a token in nats.
        accuracy: fraction of the tokens that are the model's most probable ones.
    """

    tokens: int
    bytes: int
    loss: float
    accuracy: float

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # exp(709) is the largest that a float holds

    @property
    def bits_per_token(self) -> float:
        return self.loss / math.log(2)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between models with different tokenizers, which bits per token and perplexity are not."""
        return self.bits_per_token * self.tokens / self.bytes


def evaluate_text(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    *,
    window: int | None = None,
    stride: int | None = None,
    add_special_tokens: bool = True,
    dtype: ModelDtype = "float32",
) -> TextScore:
    """Score a text of any length by sliding windows; every token counts once.

    Where the tokenizer begins a text with a BOS, every window begins with one, as llama.cpp's do: a model such as Gemma
    has seen no text without it.

    >>> from llm_jax.checkpoint import load_model
    >>> from llm_jax.demo import PATH
    >>> loaded = load_model(PATH)
    >>> score = evaluate_text(loaded.model, loaded.tokenizer, "Once upon a time, there was a little girl.")
    >>> 1.0 < score.perplexity < 20.0
    True

    Args:
        window: tokens that the model sees at once; its whole context (at most 2048) unless given.
        stride: tokens from one window to the next; half a window unless given. The tokens of a later window that an
            earlier one has counted are its context, so a smaller stride is slower and nearer to the true value.
        add_special_tokens: to the text, those that the tokenizer's maker meant to surround it.
        dtype: of the weights, rounded as an engine of this dtype rounds them.

    Raises:
        DataError: the text has fewer than two tokens, or a token that the model does not have.
        ConfigError: a window beyond the model's context, a stride beyond the window, or an unknown dtype.
    """
    longest = model.config.max_seq_len
    window = window or min(longest, _TOKENS_PER_CALL)
    stride = stride or max(1, window // 2)
    if not 1 <= window <= longest:
        raise ConfigError(f"window is {window}; it must be 1 to {longest}, the model's context.")
    if not 1 <= stride <= window:
        raise ConfigError(f"stride is {stride}; it must be 1 to {window}, the window.")
    encode = tokenizer.encode_with_special_tokens if add_special_tokens else tokenizer.encode
    ids = np.asarray(encode(text), np.int32)
    if len(ids) < 2:
        raise DataError(f"The text has {len(ids)} token(s); at least 2 are needed, one to predict the other from.")
    if ids.max() >= model.config.vocab_size:
        raise DataError(
            f"Token {ids.max()} is outside the model's vocabulary of {model.config.vocab_size}; "
            "use the tokenizer that the model was trained with."
        )

    begins_with_bos = encode("")[:1] == [tokenizer.bos_token_id]
    bos = tokenizer.bos_token_id if begins_with_bos else None
    model, compute = cast_model(model, dtype)
    batch_size = max(1, _TOKENS_PER_CALL // window)
    loss = correct = 0.0
    for inputs_BT, targets_BT, counted_BT in _batches(ids, min(window, len(ids) - 1), stride, batch_size, bos):
        score = _score.prepare(model.config, compute, model.params, inputs_BT, targets_BT, counted_BT)
        batch_loss, batch_correct = score(model.params, inputs_BT, targets_BT, counted_BT)
        loss += float(batch_loss)
        correct += int(batch_correct)
    tokens = len(ids) - 1
    first = len(tokenizer.decode(ids[:1].tolist()).encode())
    return TextScore(tokens, max(1, len(text.encode()) - first), loss / tokens, correct / tokens)


def _batches(
    ids: np.ndarray, window: int, stride: int, batch_size: int, bos: int | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(inputs, targets, counted), each [batch_size, window]: batches of one shape share one compiled program.

    Args:
        bos: replaces the first input of every window, unless it is None.
    """
    last = len(ids) - 1
    # The windows with tokens that the ones before have not counted.
    starts = [0, *range(stride, last - window + stride, stride)]
    shape = batch_size, window
    for first in range(0, len(starts), batch_size):
        inputs_BT, targets_BT, counted_BT = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, bool)
        for row, start in enumerate(starts[first : first + batch_size]):
            size = min(window, last - start)
            inputs_BT[row, :size] = ids[start : start + size]
            if bos is not None:
                inputs_BT[row, 0] = bos
            targets_BT[row, :size] = ids[start + 1 : start + 1 + size]
            counted_BT[row, 0 if start == 0 else window - stride : size] = True
        yield inputs_BT, targets_BT, counted_BT


@program(static=("config", "compute"))
def _score(
    config: ModelConfig, compute: jnp.dtype, params: Params, inputs_BT: Array, targets_BT: Array, counted_BT: Array
) -> tuple[Array, Array]:
    """Summed loss in nats and number of correct predictions over the counted tokens."""
    logits_BTV = forward(config, params, inputs_BT, dtype=compute)
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    correct_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
    return jnp.sum((log_z_BT - target_BT) * counted_BT), jnp.sum(correct_BT & counted_BT)
