"""Phi 3 and Phi 4: Llama with fused projections, partly rotated heads, and LongRoPE."""

import math

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import (
    BLOCK,
    ENDS,
    LAYER,
    PRE_NORMS,
    WINDOW,
    read_rope,
    rotary_entries,
    write_rope,
)
from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import Rule, same
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError

TABLE = (
    *ENDS,
    *PRE_NORMS,
    same(BLOCK + "self_attn.qkv_proj.weight", LAYER + "self_attn.qkv_proj.weight"),
    same(BLOCK + "self_attn.out_proj.weight", LAYER + "self_attn.o_proj.weight"),
    Rule((BLOCK + "mlp.fc1.weight", BLOCK + "mlp.gate_proj.weight"), (LAYER + "mlp.gate_up_proj.weight",)),
    same(BLOCK + "mlp.fc2.weight", LAYER + "mlp.down_proj.weight"),
)


def _read_rope(entries: Json) -> Json:
    rope = rotary_entries(entries)
    context = entries.get("max_position_embeddings", 4096)
    theta = float(rope.get("rope_theta") or 10000.0)
    fraction = rope.get("partial_rotary_factor") or entries.get("partial_rotary_factor") or 1.0
    fields = {"rope_theta": theta, "rope_fraction": float(fraction)}
    if rope.get("rope_type", rope.get("type", "default")) in ("longrope", "su", "yarn"):
        original = rope.get("original_max_position_embeddings", 4096)
        return fields | {"rope_scaling": _read_longrope(rope, original, context)}
    return fields | read_rope(rope, theta, context)


def _longrope_magnitude(growth: float, original: int) -> float:
    return math.sqrt(1 + math.log(growth) / math.log(original)) if growth > 1 else 1.0


def _read_longrope(rope: Json, original: int, context: int) -> RopeScaling:
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        magnitude = _longrope_magnitude(rope.get("factor") or context / original, original)
    if context > original and rope["short_factor"] != rope["long_factor"]:
        raise CheckpointError(
            f"config.json asks for LongRoPE beyond {original} tokens, where every position turns differently once a "
            "text has grown longer than that; this decoder rotates each token once. To use the model up to "
            f"{original} tokens, set max_position_embeddings to {original} and, in rope_parameters, attention_factor "
            f"to {magnitude!r}."
        )
    return RopeScaling(
        kind="longrope",
        factors=tuple(map(float, rope["short_factor"])),
        attention_factor=float(magnitude),
        original_max_seq_len=original,
    )


def _write_rope(config: ModelConfig) -> Json:
    rope = write_rope(config.rope_theta, config.rope_scaling) | {"partial_rotary_factor": config.rope_fraction}
    entries: Json = {"rope_theta": config.rope_theta, "partial_rotary_factor": config.rope_fraction}
    scaling = config.rope_scaling
    original = config.max_seq_len if scaling is None else scaling.original_max_seq_len
    if scaling is not None and scaling.kind == "longrope":
        factors = {"short_factor": list(scaling.factors), "long_factor": list(scaling.factors)}
        rope |= factors | {"attention_factor": scaling.magnitude}
        if scaling.magnitude == _longrope_magnitude(config.max_seq_len / original, original):
            entries["rope_scaling"] = {"type": "longrope", **factors}  # all that transformers 4 takes
    return entries | {"rope_parameters": rope, "original_max_position_embeddings": original}


PHI3 = llama_like(
    "phi3", "Phi3ForCausalLM", TABLE,
    # There is no head_dim; a model whose heads are not hidden_size / num_heads is not expressed.
    keys={name: key for name, key in KEYS.items() if name != "head_dim"}
    | {
        "max_seq_len": Key("max_position_embeddings", 4096),
        "norm_eps": Key("rms_norm_eps", 1e-5),
        "embedding_dropout": Key("embd_pdrop", 0.0),
        "mlp_dropout": Key("resid_pdrop", 0.0),
    },
    always=ALWAYS,
    sections=(Section(_read_rope, _write_rope), WINDOW),
)  # fmt: skip
