"""How well a model predicts a text: perplexity, bits per token and per byte, next-token accuracy."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError, DataError
from llm_jax.kernels import WeightDtype
from llm_jax.model import Model, Params, cast_model, forward
from llm_jax.tokenizers import Tokenizer

_TOKENS_PER_CALL = 2048  # bounds the logits: 2048 * V floats


@dataclass(frozen=True)
class TextScore:
    """What a model makes of a text, each token predicted from those before it.

    Attributes:
        tokens: how many were predicted: all but the first, which has nothing before it.
        bytes: what these tokens are in UTF-8.
        loss: mean negative log-probability of a token in nats.
        accuracy: share of the tokens that the model held to be the most probable one.
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
    dtype: WeightDtype = "float32",
) -> TextScore:
    """Scores a text of any length through windows that slide over it; every token counts once.

    Args:
        window: tokens that the model sees at once; its whole context (at most 2048) unless given.
        stride: tokens from one window to the next; half a window unless given. The tokens of a later window that an
            earlier one has counted are its context, so a smaller stride is slower and nearer to the true value.
        dtype: what the weights are kept in, as an engine of this dtype keeps them.

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
    ids = np.asarray(tokenizer.encode(text), np.int32)
    if len(ids) < 2:
        raise DataError(f"The text has {len(ids)} token(s); at least 2 are needed, one to predict the other from.")
    if ids.max() >= model.config.vocab_size:
        raise DataError(
            f"Token {ids.max()} is outside the model's vocabulary of {model.config.vocab_size}; "
            "use the tokenizer that the model was trained with."
        )

    model, compute = cast_model(model, dtype)
    rows = max(1, _TOKENS_PER_CALL // window)
    loss = correct = 0.0
    for inputs_BT, targets_BT, counted_BT in _batches(ids, min(window, len(ids) - 1), stride, rows):
        batch_loss, batch_correct = _score(model.config, compute, model.params, inputs_BT, targets_BT, counted_BT)
        loss += float(batch_loss)
        correct += int(batch_correct)
    tokens = len(ids) - 1
    first = len(tokenizer.decode(ids[:1].tolist()).encode())
    return TextScore(tokens, max(1, len(text.encode()) - first), loss / tokens, correct / tokens)


def _batches(
    ids: np.ndarray, window: int, stride: int, rows: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(inputs, targets, counted), each [rows, window]; all batches have one shape, so that one program serves all."""
    last = len(ids) - 1
    # The windows that reach beyond what the one before them has counted.
    begins = [0, *range(stride, last - window + stride, stride)]
    for at in range(0, len(begins), rows):
        inputs = np.zeros((rows, window), np.int32)
        targets = np.zeros((rows, window), np.int32)
        counted = np.zeros((rows, window), bool)
        for row, begin in enumerate(begins[at : at + rows]):
            size = min(window, last - begin)
            inputs[row, :size] = ids[begin : begin + size]
            targets[row, :size] = ids[begin + 1 : begin + 1 + size]
            counted[row, 0 if begin == 0 else window - stride : size] = True
        yield inputs, targets, counted


@partial(jax.jit, static_argnums=(0, 1))
def _score(
    config: ModelConfig, compute: jnp.dtype, params: Params, inputs_BT: Array, targets_BT: Array, counted_BT: Array
) -> tuple[Array, Array]:
    """Summed loss in nats and number of right guesses over the counted tokens."""
    logits_BTV = forward(config, params, inputs_BT, dtype=compute)
    log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    right_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
    return jnp.sum((log_z_BT - target_BT) * counted_BT), jnp.sum(right_BT & counted_BT)
