"""The limits of the machine: bytes that a decode step has to read, operations that a prompt has to do."""

from llm_jax.config import ModelConfig
from llm_jax.kernels import WeightDtype
from llm_jax.model import param_shapes

BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "int8": 1}


def bytes_per_step(config: ModelConfig, dtype: WeightDtype) -> int:
    """Bytes of weights that decoding one token reads: all parameters except lookup tables and inactive experts."""
    return _parameters_read(config) * BYTES[dtype]


def cache_bytes(config: ModelConfig, dtype: WeightDtype, tokens: int) -> int:
    """Bytes of keys and values of that many tokens: four bytes a value with float32 weights, else two."""
    return 2 * config.num_layers * config.kv_heads * config.head_size * tokens * (4 if dtype == "float32" else 2)


def decode_limit(config: ModelConfig, dtype: WeightDtype, batch: int, context: int, bandwidth: float) -> float:
    """Tokens per second where a step reads weights and cache once and does nothing else."""
    read = bytes_per_step(config, dtype) + cache_bytes(config, dtype, batch * context)
    return batch * bandwidth / read


def prefill_limit(config: ModelConfig, tokens: int, rate: float) -> float:
    """Tokens per second of a prompt where its products run at `rate` operations per second."""
    head = config.vocab_size * config.hidden_size
    products = 2 * (_parameters_read(config) - head) * tokens + 2 * head  # the head computes the last token only
    return tokens * rate / (products + attention_operations(config, tokens))


def training_operations(config: ModelConfig, length: int) -> float:
    """Per token, forward and backward: six for each parameter of a product, and attention to the tokens before."""
    return 6 * _parameters_read(config) + 3 * attention_operations(config, length) / length


def attention_operations(config: ModelConfig, tokens: int) -> float:
    """Scores and mixed values of a causal prompt: half of tokens × tokens."""
    return 2 * config.num_layers * config.num_heads * config.head_size * tokens**2


def _parameters_read(config: ModelConfig) -> int:
    tables = {"embedding_layer.positional_encoding.pos_embedding.weight"}
    if not config.tie_embeddings:
        tables.add("embedding_layer.token_embeddings.weight")
    read = 0
    for name, value in param_shapes(config).items():
        if ".experts." in name:
            read += value.size * config.top_k // config.num_experts
        elif name not in tables:
            read += value.size
    return read
