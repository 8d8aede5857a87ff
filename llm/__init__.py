"""The documented import paths; everything is defined elsewhere."""

from llm.inference import batch_generate, generate, stream_generate
from llm.models.decoder import DecoderModel
from llm.tokenization.simple_tokenizer import SimpleCharacterTokenizer
from llm_jax import __version__

__all__ = [
    "DecoderModel",
    "SimpleCharacterTokenizer",
    "__version__",
    "batch_generate",
    "generate",
    "stream_generate",
]
