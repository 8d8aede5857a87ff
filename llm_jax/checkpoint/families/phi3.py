"""Phi 3 and Phi 4: Llama with fused projections, partly rotated heads, and LongRoPE."""

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import BLOCK, ENDS, FUSED_GATED, LAYER, PRE_NORMS, WINDOW
from llm_jax.checkpoint.families.rope import longrope_magnitude, rope_section, rotary_entries
from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import same
from llm_jax.config import ModelConfig

TABLE = (
    *ENDS,
    *PRE_NORMS,
    same(BLOCK + "self_attn.qkv_proj.weight", LAYER + "self_attn.qkv_proj.weight"),
    same(BLOCK + "self_attn.out_proj.weight", LAYER + "self_attn.o_proj.weight"),
    *FUSED_GATED,
)
ROPE = rope_section(fraction=1.0)


def _read_rope(entries: Json) -> Json:
    rope = rotary_entries({"original_max_position_embeddings": 4096} | entries)
    if "short_factor" in rope:  # earlier files call LongRoPE "su" or "yarn"
        rope["rope_type"] = "longrope"
    return ROPE.read({name: entries[name] for name in entries if name != "rope_scaling"} | {"rope_parameters": rope})


def _write_rope(config: ModelConfig) -> Json:
    entries = ROPE.write(config)
    scaling = config.rope_scaling
    original = config.max_seq_len if scaling is None else scaling.original_max_seq_len
    if scaling is not None and scaling.kind == "longrope":
        # transformers 4 takes the factors alone, and computes the magnitude.
        plain = {name: entries["rope_scaling"][name] for name in ("short_factor", "long_factor")}
        fits = scaling.magnitude == longrope_magnitude(config.max_seq_len / original, original)
        entries["rope_scaling"] = {"type": "longrope", **plain} if fits else None
    return entries | {"original_max_position_embeddings": original}


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
