"""One random model for all engines: the peers read the files that this project's own export writes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llm_jax.checkpoint import convert, open_model, save_model
from llm_jax.config import ModelConfig
from llm_jax.model import Model, ModelDtype


def _llama(vocab: int, width: int, layers: int, heads: int, kv_heads: int, ffn: int, context: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocab,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=ffn,
        max_seq_len=context,
        positions="rotary",
        norm="rms_norm",
        use_glu=True,
        activation="silu",
        qkv_bias=False,
        mlp_bias=False,
        lm_head_bias=False,
        embedding_scale=1.0,
        dropout=0.0,
    )


SHAPES = {
    "gpt2-small": ModelConfig(
        vocab_size=50257,
        hidden_size=768,
        num_layers=12,
        num_heads=12,
        max_seq_len=1024,
        positions="learned",
        embedding_scale=1.0,
        activation="gelu_tanh",
        tie_embeddings=True,
        lm_head_bias=False,
        dropout=0.0,
    ),
    "llama-160m": _llama(50257, 768, 12, 12, 12, 2048, context=2048),
    "llama-1b": _llama(32000, 2048, 22, 32, 4, 5632, context=2048),
    "tiny": _llama(96, 64, 2, 4, 4, 128, context=512),
}
GGUF_TYPES: dict[ModelDtype, str] = {"float32": "float32", "bfloat16": "bfloat16", "int8": "q8_0"}


@dataclass(frozen=True)
class Weights:
    """A random model, identical in every process, and its files.

    Attributes:
        shape: one of SHAPES.
        scratch: the directory where files are written at first use.
    """

    shape: str
    scratch: Path

    @property
    def config(self) -> ModelConfig:
        return SHAPES[self.shape]

    def model(self) -> Model:
        return Model.init(self.config)

    def directory(self) -> Path:
        """A model directory that transformers reads."""
        path = self.scratch / "model"
        if not path.exists():
            save_model(path, self.model())
        return path

    def gguf(self, dtype: ModelDtype) -> Path:
        """A file that llama.cpp reads."""
        path = self.scratch / f"{dtype}.gguf"
        if not path.exists():
            convert(open_model(self.directory()), path, dtype=GGUF_TYPES[dtype])
        return path


@contextmanager
def random_weights(shape: str) -> Iterator[Weights]:
    """Weights whose files are removed when the block ends."""
    with tempfile.TemporaryDirectory(prefix="llm-benchmark-") as scratch:
        yield Weights(shape, Path(scratch))
