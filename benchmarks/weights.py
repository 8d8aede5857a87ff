"""One random model for everybody: the peers read it in the forms that this project's own export writes."""

import tempfile
from pathlib import Path

from llm_jax.checkpoint import convert, open_model, save_model
from llm_jax.config import ModelConfig
from llm_jax.kernels import Kind
from llm_jax.model import Model


def _llama(vocab: int, width: int, layers: int, heads: int, kv_heads: int, ffn: int, context: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab, hidden_size=width, num_layers=layers, num_heads=heads, num_kv_heads=kv_heads,
        intermediate_size=ffn, max_seq_len=context, positions="rotary", norm="rms_norm", use_glu=True,
        activation="silu", qkv_bias=False, mlp_bias=False, lm_head_bias=False, embedding_scale=1.0, dropout=0.0,
    )  # fmt: skip


SHAPES = {
    "llama-160m": _llama(50257, 768, 12, 12, 12, 2048, context=2048),
    "llama-1b": _llama(32000, 2048, 22, 32, 4, 5632, context=2048),
    "tiny": _llama(96, 64, 2, 4, 4, 128, context=512),
}
GGUF_TYPES: dict[Kind, str] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "q8_0"}


class Weights:
    """A random model; as a context, it also holds the files that were asked for until it ends."""

    def __init__(self, shape: str, seed: int = 0) -> None:
        self.model = Model.init(SHAPES[shape], seed)
        self._scratch = tempfile.TemporaryDirectory(prefix="llm-benchmark-")

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def directory(self) -> Path:
        """A model directory that transformers reads."""
        path = Path(self._scratch.name) / "model"
        if not path.exists():
            save_model(path, self.model)
        return path

    def gguf(self, dtype: Kind) -> Path:
        """A file that llama.cpp reads."""
        path = Path(self._scratch.name) / f"{dtype}.gguf"
        if not path.exists():
            convert(open_model(self.directory()), path, dtype=GGUF_TYPES[dtype])
        return path

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()
