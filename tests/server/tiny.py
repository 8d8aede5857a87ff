"""A model small enough to make in a test, whose greedy text is known: it recites.

Embeddings are one-hot and every layer is silent, so that the head maps each token straight to its successor.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from llm_jax.checkpoint import GenerationDefaults, save_model
from llm_jax.config import ModelConfig
from llm_jax.model import Model, init_params
from llm_jax.tokenizers import BPETokenizer

RECITED = " Hi😀,中!"  # no byte of it occurs twice; the emoji is four tokens, the Chinese character three
TOKENS = len(RECITED.encode()) + 1  # with the end of text
CONTEXT = 512
END_OF_TEXT = "<|endoftext|>"  # BOS as well
CERTAINTY = 0.5  # the successor's logit is then 8 above the others: sure at temperature 1, hidden in noise at 5


def save_reciter(
    directory: Path,
    recited: str = RECITED,
    *,
    context: int = CONTEXT,
    chat_template: str | None = None,
    special_tokens: Sequence[str] = (),
    adds_bos: bool = False,
    sampling: Mapping[str, float] | None = None,
    preferred: str = "",
    is_endless: bool = False,
) -> Path:
    """Writes a model that, after any other token, recites a text in which no byte occurs twice, and ends.

    Args:
        special_tokens: further tokens of its tokenizer.
        adds_bos: whether its tokenizer puts a BOS before a text.
        sampling: what its generation_config.json says of sampling.
        preferred: characters that come where the text cannot go on, the first of them that can.
        is_endless: whether it begins again instead of ending.
    """
    tokenizer = BPETokenizer.train([], 258)  # 256 bytes, end of text, padding: one token per byte
    backend = Backend.from_str(tokenizer.to_json())
    backend.add_special_tokens([AddedToken(token, special=True) for token in special_tokens])
    if adds_bos:
        backend.post_processor = TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
    tokenizer = BPETokenizer(backend, {"clean_up_tokenization_spaces": False}, chat_template)
    vocab, width = 260, 264  # the same programs with special tokens and without
    assert tokenizer.vocab_size <= vocab
    config = ModelConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_layers=1,
        num_heads=4,
        intermediate_size=64,
        max_seq_len=context,
        positions="none",
        norm="rms_norm",
        lm_head_bias=False,
    )
    params = init_params(config)
    params = {name: jnp.zeros_like(x) if "out_proj" in name or "fc2" in name else x for name, x in params.items()}
    chain = tokenizer.encode(recited)
    assert len(set(chain)) == len(chain) == len(recited.encode())
    successor = dict.fromkeys(range(vocab), chain[0])
    successor.update(zip(chain, [*chain[1:], chain[0] if is_endless else tokenizer.eos_token_id], strict=True))
    head = np.zeros((vocab, width), np.float32)
    for rank, token in enumerate(tokenizer.encode(preferred)):
        head[token] = CERTAINTY / (2 + rank)
    for token, following in successor.items():
        head[following, token] = CERTAINTY
    params["embedding_layer.token_embeddings.weight"] = jnp.eye(vocab, width)
    params["lm_head.weight"] = jnp.asarray(head)
    generation = replace(GenerationDefaults.of_tokenizer(tokenizer), sampling=sampling or {})
    save_model(directory, Model(config, params), tokenizer, generation)
    return directory
