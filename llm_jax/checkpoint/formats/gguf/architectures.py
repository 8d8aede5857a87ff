"""The architectures of llama.cpp as families: the metadata and tensor names of GGUF files.

Some entries of config.json correspond to the presence of a tensor in a GGUF file. Here they are entries named
"has <tensor>", which are added when a file is read and dropped when one is written.
"""

import math
from dataclasses import asdict, replace
from typing import Any

from llm_jax.checkpoint.families.gemma import ALWAYS_1
from llm_jax.checkpoint.families.llama import ALWAYS
from llm_jax.checkpoint.families.parts import BLOCK, interleaved
from llm_jax.checkpoint.family import Json, Key, Section, canonical
from llm_jax.checkpoint.formats.gguf.architecture import Architecture
from llm_jax.checkpoint.names import Rule, linear, qkv_rows, same
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError
from llm_jax.model import rope_frequencies

ROPE_FACTORS = "rope_freqs.weight"
LAYER = "blk.{i}."


def _both(param: str, stored: str) -> tuple[Rule, Rule]:
    return linear(BLOCK + param, LAYER + stored)


COMMON = (
    same("embedding_layer.token_embeddings.weight", "token_embd.weight"),
    same("embedding_layer.positional_encoding.pos_embedding.weight", "position_embd.weight"),
    *_both("norm1", "attn_norm"),
    same(BLOCK + "self_attn.q_norm.weight", LAYER + "attn_q_norm.weight"),
    same(BLOCK + "self_attn.k_norm.weight", LAYER + "attn_k_norm.weight"),
    *_both("self_attn.out_proj", "attn_output"),
    same(BLOCK + "post_attn_norm.weight", LAYER + "post_attention_norm.weight"),
    *_both("norm2", "ffn_norm"),
    *_both("mlp.fc2", "ffn_down"),
    same(BLOCK + "post_mlp_norm.weight", LAYER + "post_ffw_norm.weight"),
    same("final_norm.weight", "output_norm.weight"),
    same("final_norm.bias", "output_norm.bias"),
    same("lm_head.weight", "output.weight"),
)
QKV = tuple(
    Rule((BLOCK + f"self_attn.qkv_proj.{part}",), tuple(LAYER + f"attn_{x}.{part}" for x in "qkv"), rows=qkv_rows)
    for part in ("weight", "bias")
)
INTERLEAVED = (interleaved(r"blk\.\d+\.attn_(?P<head>[qk])\.(weight|bias)"),)
FUSED_QKV = _both("self_attn.qkv_proj", "attn_qkv")
GATED = (*_both("mlp.fc1", "ffn_gate"), *_both("mlp.gate_proj", "ffn_up"))
EXPERTS = (
    same(BLOCK + "mlp.router.weight", LAYER + "ffn_gate_inp.weight"),
    same(BLOCK + "mlp.experts.fc1.weight", LAYER + "ffn_gate_exps.weight"),
    same(BLOCK + "mlp.experts.gate_proj.weight", LAYER + "ffn_up_exps.weight"),
    same(BLOCK + "mlp.experts.fc2.weight", LAYER + "ffn_down_exps.weight"),
)
FUSED_GATED = (Rule((BLOCK + "mlp.fc1.weight", BLOCK + "mlp.gate_proj.weight"), (LAYER + "ffn_up.weight",)),)

LLAMA_TABLE = (*COMMON, *QKV, *GATED, *EXPERTS)
PHI3_TABLE = (*COMMON, *FUSED_QKV, *FUSED_GATED)
GPT2_TABLE = (*COMMON, *FUSED_QKV, *_both("mlp.fc1", "ffn_up"))
STARCODER2_TABLE = (*COMMON, *QKV, *_both("mlp.fc1", "ffn_up"))


def _keys(arch: str) -> dict[str, Key]:
    return {
        "vocab_size": Key(f"{arch}.vocab_size"),
        "hidden_size": Key(f"{arch}.embedding_length"),
        "num_layers": Key(f"{arch}.block_count"),
        "num_heads": Key(f"{arch}.attention.head_count"),
        "num_kv_heads": Key(f"{arch}.attention.head_count_kv", None),
        "head_dim": Key(f"{arch}.attention.key_length", None),
        "intermediate_size": Key(f"{arch}.feed_forward_length"),
        "max_seq_len": Key(f"{arch}.context_length"),
        "norm_eps": Key(f"{arch}.attention.layer_norm_rms_epsilon"),
        "tie_embeddings": Key("has output.weight", False, read=lambda has: not has, write=lambda tied: not tied),
    }


BIASES = {
    "qkv_bias": Key("has blk.0.attn_q.bias", False),
    "out_bias": Key("has blk.0.attn_output.bias", False),
    "mlp_bias": Key("has blk.0.ffn_up.bias", False),
}


def _values(arch: str) -> Section:
    """The size of value heads, which is that of key heads."""
    return Section(lambda _: {}, lambda config: {f"{arch}.attention.value_length": config.head_size})


def _rope(arch: str, *, partial: bool = False) -> Section:
    """Args: partial: only a fraction of each head may be rotated."""
    prefix = f"{arch}.rope."

    def read(entries: Json) -> Json:
        fields: Json = {"rope_theta": entries.get(prefix + "freq_base", 10000.0)}
        if partial and prefix + "dimension_count" in entries:
            whole = entries[f"{arch}.embedding_length"] // entries[f"{arch}.attention.head_count"]
            head = entries.get(f"{arch}.attention.key_length") or whole
            fields["rope_fraction"] = entries[prefix + "dimension_count"] / head
        scaling = _read_scaling({name: entries.get(prefix + name) for name in SCALING}, entries)
        return fields if scaling is None else fields | {"rope_scaling": scaling}

    def write(config: ModelConfig) -> Json:
        entries: Json = {prefix + "freq_base": config.rope_theta, prefix + "dimension_count": config.rotary_dim}
        scaling = config.rope_scaling
        if scaling is None:
            return entries
        if scaling.kind == "longrope":
            return entries | {f"has {ROPE_FACTORS}": scaling.factors}
        entries |= {prefix + "scaling.type": scaling.kind, prefix + "scaling.factor": scaling.factor}
        if scaling.kind == "yarn":
            entries |= {prefix + "scaling.original_context_length": scaling.original_max_seq_len}
        return entries

    return Section(read, write)


# Entries of the group rope.scaling, with the older name of its factor.
SCALING = (
    "scaling.type", "scaling.factor", "scale_linear", "scaling.original_context_length", "scaling.attn_factor",
    "scaling.yarn_ext_factor", "scaling.yarn_attn_factor", "scaling.yarn_beta_fast", "scaling.yarn_beta_slow",
    "scaling.yarn_log_multiplier", "scaling.finetuned",
)  # fmt: skip


def _read_scaling(given: Json, entries: Json) -> RopeScaling | None:
    """The scaling that the entries of rope.scaling and a tensor of divisors describe, as llama.cpp computes it.

    YaRN is linear scaling with a ramp (yarn_ext_factor 1), or without one (0), and a magnitude.
    """
    kind = given["scaling.type"] or "linear"
    if kind not in ("none", "linear", "yarn"):
        raise CheckpointError(f"The GGUF file scales rotary positions by {kind!r}; linear and yarn work.")
    factor = 1.0 if kind == "none" else float(given["scaling.factor"] or given["scale_linear"] or 1.0)
    ramp = given["scaling.yarn_ext_factor"]
    ramp = float(kind == "yarn") if ramp is None or ramp < 0 else ramp
    magnitude = 1.0 if given["scaling.attn_factor"] is None else given["scaling.attn_factor"]
    divisors = entries.get(f"has {ROPE_FACTORS}")
    if ramp not in (0.0, 1.0) or (ramp and divisors is not None):
        raise CheckpointError(
            f"The GGUF file mixes rotary positions with yarn_ext_factor {ramp:g}"
            f"{' and ' + ROPE_FACTORS if divisors is not None else ''}; 0 and 1 work, and divisors without a ramp."
        )
    if ramp:
        scaling = RopeScaling(
            kind="yarn",
            factor=factor,
            original_max_seq_len=given["scaling.original_context_length"] or _context_length(entries),
            beta_fast=given["scaling.yarn_beta_fast"] or 32.0,
            beta_slow=given["scaling.yarn_beta_slow"] or 1.0,
        )
        log_multiplier = given["scaling.yarn_log_multiplier"] or 0.0
        magnitude *= scaling.magnitude / (1.0 + 0.1 * log_multiplier * math.log(max(factor, 1.0)))
        return scaling if magnitude == scaling.magnitude else replace(scaling, attention_factor=magnitude)
    if given["scaling.yarn_attn_factor"] is not None:
        magnitude *= given["scaling.yarn_attn_factor"]
    if divisors is not None:
        scaling = RopeScaling(kind="longrope", factors=tuple(factor * float(divisor) for divisor in divisors))
    else:
        scaling = RopeScaling(kind="linear", factor=factor)
    if magnitude != 1.0:
        return replace(scaling, attention_factor=magnitude)
    return None if scaling == RopeScaling(kind="linear") else scaling


def _context_length(entries: Json) -> int:
    return next(value for name, value in entries.items() if name.endswith(".context_length"))


def _experts(arch: str) -> Section:
    def read(entries: Json) -> Json:
        count = entries.get(f"{arch}.expert_count", 0)
        top_k = entries.get(f"{arch}.expert_used_count", 0)
        return {"use_moe": True, "num_experts": count, "top_k": top_k} if count else {}

    def write(config: ModelConfig) -> Json:
        if not config.use_moe:
            return {}
        return {f"{arch}.expert_count": config.num_experts, f"{arch}.expert_used_count": config.top_k}

    return Section(read, write)


def _windows(arch: str, every: int, default: int | None = None) -> Section:
    """All layers but every `every`-th have the window, unless the file has another number or says it for each layer.

    Args:
        default: size of the window where the file has none; unless given, there is then no window.
    """
    window, pattern = f"{arch}.attention.sliding_window", f"{arch}.attention.sliding_window_pattern"

    def read(entries: Json) -> Json:
        layers = range(entries[f"{arch}.block_count"])
        said = entries.get(pattern, every)
        windowed = said[: len(layers)] if isinstance(said, list) else [not said or (i + 1) % said != 0 for i in layers]
        size = entries.get(window, default)
        return {"window_size": size, "window_layers": tuple(map(bool, windowed))} if size and any(windowed) else {}

    def write(config: ModelConfig) -> Json:
        windowed = [config.window(i) is not None for i in range(config.num_layers)]
        usual = [(i + 1) % every != 0 for i in range(config.num_layers)]
        return {window: config.window_size or 0} | ({} if windowed == usual else {pattern: windowed})

    return Section(read, write)


def _attention_scale(arch: str, layers: int) -> Section:
    """llama.cpp knows a model of 27B by its number of layers: its scale is not that of the head size."""

    def read(entries: Json) -> Json:
        if entries[f"{arch}.block_count"] != layers:
            return {}
        return {
            "attention_scale": (entries[f"{arch}.embedding_length"] // entries[f"{arch}.attention.head_count"]) ** -0.5
        }

    return Section(read, lambda _: {})


# Entries of the groups rope and attention that are read, or that change nothing here; any other is refused.
KNOWN = frozenset(
    {"rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", *(f"rope.{name}" for name in SCALING)}
    | {"attention.value_length", "attention.sliding_window", "attention.sliding_window_pattern", "attention.causal"}
    | {"attention.head_count", "attention.head_count_kv", "attention.layer_norm_epsilon"}
)


def _architecture(
    name: str, table: tuple[Rule, ...], *, sections: tuple[Section, ...] = (), **rest: Any
) -> Architecture:
    rest["keys"] = _keys(name) | rest.get("keys", {})
    rest["known"] = frozenset(f"{name}.{entry}" for entry in KNOWN) | {key.name for key in rest["keys"].values()}
    return Architecture(
        model_type=name, architecture=name, table=lambda _: table, sections=(_values(name), *sections), **rest
    )


SILU = ALWAYS | {"activation": "silu"}
GEMMAS = ALWAYS_1 | {"activation": "gelu_tanh"}
WITHOUT_GATE = {"activation": "gelu_tanh", "lm_head_bias": False, "embedding_scale": 1.0, "dropout": 0.0}

LLAMA = _architecture(
    "llama", LLAMA_TABLE, keys=BIASES, always=SILU, sections=(_rope("llama"), _experts("llama")), orders=INTERLEAVED
)
QWEN2 = _architecture(
    "qwen2", LLAMA_TABLE, always=SILU | {"qkv_bias": True, "out_bias": False}, sections=(_rope("qwen2"),)
)
QWEN3 = _architecture("qwen3", LLAMA_TABLE, always=SILU | {"qk_norm": "head"}, sections=(_rope("qwen3"),))
QWEN3_MOE = _architecture(
    "qwen3moe", LLAMA_TABLE, always=SILU | {"qk_norm": "head"}, sections=(_rope("qwen3moe"), _experts("qwen3moe")),
    keys={"intermediate_size": Key("qwen3moe.expert_feed_forward_length")},
)  # fmt: skip
GEMMA = _architecture("gemma", LLAMA_TABLE, always=GEMMAS, offset_norms=True, sections=(_rope("gemma"),))
GEMMA2 = _architecture(
    "gemma2", LLAMA_TABLE, always=GEMMAS | {"sandwich_norm": True}, offset_norms=True,
    sections=(_rope("gemma2"), _windows("gemma2", 2, 4096), _attention_scale("gemma2", 46)),
    keys={
        "attention_softcap": Key("gemma2.attn_logit_softcapping", 50.0),
        "logit_softcap": Key("gemma2.final_logit_softcapping", 30.0),
    },
)  # fmt: skip
GEMMA3 = _architecture(
    "gemma3", LLAMA_TABLE, always=GEMMAS | {"sandwich_norm": True, "qk_norm": "head"}, offset_norms=True,
    sections=(_rope("gemma3"), _windows("gemma3", 6), _attention_scale("gemma3", 62)),
    keys={
        "window_rope_theta": Key("gemma3.rope.freq_base_swa", 10000.0),
        "logit_softcap": Key("gemma3.final_logit_softcapping", None, read=lambda cap: cap or None),
    },
)  # fmt: skip
PHI3 = _architecture("phi3", PHI3_TABLE, always=SILU, sections=(_rope("phi3", partial=True),))
GPT2 = _architecture(
    "gpt2", GPT2_TABLE, always=WITHOUT_GATE | {"positions": "learned"},
    keys={"norm_eps": Key("gpt2.attention.layer_norm_epsilon")},
)  # fmt: skip
STARCODER2 = _architecture(
    "starcoder2", STARCODER2_TABLE, always=WITHOUT_GATE | {"positions": "rotary"}, sections=(_rope("starcoder2"),),
    keys=BIASES | {"norm_eps": Key("starcoder2.attention.layer_norm_epsilon")},
)  # fmt: skip

# In the order in which they are tried: llama.cpp's llama can express most of its qwen2.
ARCHITECTURES = (QWEN2, LLAMA, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, PHI3, GPT2, STARCODER2)


def architecture_for(config: ModelConfig) -> tuple[Architecture, ModelConfig]:
    """The architecture of llama.cpp that expresses `config`, and `config` with rope_scaling as it is stored there.

    Raises CheckpointError when there is none.
    """
    rewritten = replace(config, rope_scaling=_rope_scaling_as_factors(config))
    for architecture in ARCHITECTURES:
        if architecture.expresses(rewritten):
            return architecture, rewritten
    candidates = ((architecture, _differences(architecture, rewritten)) for architecture in ARCHITECTURES)
    near, differences = min(candidates, key=lambda candidate: len(candidate[1]))
    raise CheckpointError(
        f"llama.cpp has no architecture that computes this model. The nearest, {near.model_type}, differs in "
        f"{', '.join(f'{name} (here {value!r})' for name, value in differences.items())}."
    )


def _differences(architecture: Architecture, config: ModelConfig) -> dict[str, Any]:
    """The fields of `config` that differ after writing and reading it as this architecture."""
    expected = asdict(canonical(config))
    try:
        stored = asdict(canonical(architecture.read_config(architecture.write_config(config))))
    except CheckpointError:
        return expected
    return {name: value for name, value in expected.items() if stored[name] != value}


def _rope_scaling_as_factors(config: ModelConfig) -> RopeScaling | None:
    """llama.cpp stores the scaling of Llama 3 as one divisor for each pair."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return scaling
    plain = rope_frequencies(config.rotary_dim, config.rope_theta)
    factors = plain / rope_frequencies(config.rotary_dim, config.rope_theta, scaling)
    return RopeScaling(kind="longrope", factors=tuple(map(float, factors)))
