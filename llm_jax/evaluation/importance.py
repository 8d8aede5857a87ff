"""How much each input of a linear map counts on a text: what a quantiser should keep most exact."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.errors import DataError
from llm_jax.model import Model, observe_inputs
from llm_jax.tokenizers import Tokenizer

WINDOW = 512  # tokens that the model sees at once


def input_importance(model: Model, tokenizer: Tokenizer, text: str) -> dict[str, np.ndarray]:
    """The mean square of each input of every linear map on a text, by the name of its weight: float32 [I].

    An error in a weight changes an output by itself times its input, so that squared errors count in proportion to
    this (llama.cpp calls it the importance matrix). Experts, whose inputs depend on the router, have none.

    >>> from llm_jax.checkpoint import load_model
    >>> from llm_jax.demo import PATH
    >>> loaded = load_model(PATH)
    >>> found = input_importance(loaded.model, loaded.tokenizer, "Once upon a time")
    >>> found["transformer_blocks.0.mlp.fc1.weight"].shape
    (192,)

    Raises:
        DataError: the text has no token.
    """
    ids = np.asarray(tokenizer.encode_with_special_tokens(text), np.int32)
    if not len(ids):
        raise DataError("The text has no token; an importance matrix needs some hundreds.")
    sums: dict[str, np.ndarray] = {}

    def add(name: str, x: Array) -> None:
        rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
        sums[name] = sums.get(name, np.zeros(x.shape[-1])) + (rows**2).sum(0)

    window = min(WINDOW, model.config.max_seq_len)
    for start in range(0, len(ids), window):
        observe_inputs(model, jnp.asarray(ids[start : start + window])[None], add)
    return {name: (total / len(ids)).astype(np.float32) for name, total in sums.items()}
