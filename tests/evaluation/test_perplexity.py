"""A text's score is the mean over its tokens, whatever the windows, and agrees with the probabilities of `forward`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_jax.config import ModelConfig
from llm_jax.errors import ConfigError, DataError
from llm_jax.evaluation import evaluate_text
from llm_jax.model import Model
from llm_jax.tokenizers import CharacterTokenizer
from tests.compiled import forward

TEXT = "the cat sat on the mat, and the dog — a träumer — sat on the cat. " * 3
TOKENIZER = CharacterTokenizer([TEXT])
CONFIG = ModelConfig(vocab_size=TOKENIZER.vocab_size, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=256)


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.init(CONFIG, seed=0)


def test_one_window_agrees_with_forward(model: Model) -> None:
    ids = np.array(TOKENIZER.encode(TEXT))
    logits = forward(CONFIG, model.params, jnp.asarray(ids[None, :-1]))[0]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[1:, None], axis=-1)

    score = evaluate_text(model, TOKENIZER, TEXT)
    assert score.tokens == len(ids) - 1
    assert score.loss == pytest.approx(float(losses.mean()), abs=1e-5)
    assert score.accuracy == pytest.approx(float(np.mean(np.argmax(logits, -1) == ids[1:])))
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    assert score.bits_per_token == pytest.approx(math.log2(score.perplexity))


def test_bits_per_byte_counts_utf8(model: Model) -> None:
    score = evaluate_text(model, TOKENIZER, TEXT)
    assert score.bytes == len(TEXT.encode()) - 1
    assert score.bytes > score.tokens
    assert score.bits_per_byte * score.bytes == pytest.approx(score.bits_per_token * score.tokens)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (7, 7), (8, 3), (64, 32), (256, 1), (256, 256)])
def test_every_token_counts_once_in_any_windows(window: int, stride: int) -> None:
    """A model that holds all tokens for equally probable loses ln V on each, wherever the windows fall."""
    blank = Model(CONFIG, jax.tree.map(jnp.zeros_like, Model.init(CONFIG).params))
    score = evaluate_text(blank, TOKENIZER, TEXT, window=window, stride=stride)
    assert score.loss == pytest.approx(math.log(CONFIG.vocab_size), rel=1e-5)
    assert score.tokens == len(TEXT) - 1


def test_a_window_of_one_sees_only_the_token_before(model: Model) -> None:
    ids = np.array(TOKENIZER.encode(TEXT))
    logits = forward(CONFIG, model.params, jnp.asarray(ids[:-1, None]))[:, 0]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), ids[1:, None], axis=-1)
    assert evaluate_text(model, TOKENIZER, TEXT, window=1).loss == pytest.approx(float(losses.mean()), abs=1e-5)


def test_refusals(model: Model) -> None:
    with pytest.raises(DataError, match="at least 2"):
        evaluate_text(model, TOKENIZER, "t")
    with pytest.raises(ConfigError, match="window is 257; it must be 1 to 256"):
        evaluate_text(model, TOKENIZER, TEXT, window=257)
    with pytest.raises(ConfigError, match="stride is 9; it must be 1 to 8"):
        evaluate_text(model, TOKENIZER, TEXT, window=8, stride=9)
    with pytest.raises(DataError, match="outside the model's vocabulary"):
        evaluate_text(model, CharacterTokenizer([TEXT, "0123456789"]), "zzz".replace("z", "9") + TEXT)
