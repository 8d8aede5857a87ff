"""The metadata of GGUF files as fields of ModelConfig.

Some entries of config.json correspond to the presence of a tensor in a GGUF file. Here they are entries named
"has <tensor>", which are added when a file is read and dropped when one is written.
"""

import math
import re
from dataclasses import replace

from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.tensors import Tensor
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError

ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS = (
    f"{name}.weight" for name in ("rope_freqs", "rope_factors_long", "rope_factors_short")
)
ROPE_TENSORS = (ROPE_FACTORS, LONG_FACTORS, SHORT_FACTORS)


def keys(arch: str) -> dict[str, Key]:
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


def values(arch: str) -> Section:
    """The size of value heads, which is that of key heads."""
    return Section(lambda _: {}, lambda config: {f"{arch}.attention.value_length": config.head_size})


def rope(arch: str, *, partial: bool = False, divisors: bool = False, longrope: bool = False) -> Section:
    """Rotary positions.

    Args:
        partial: only a fraction of each head may be rotated.
        divisors: llama.cpp divides frequencies by a tensor of this architecture, which Llama 3's scaling is written as.
        longrope: by one of two tensors.
    """
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
        if scaling.kind == "longrope" and longrope:
            return entries | {
                f"has {SHORT_FACTORS}": scaling.factors,
                f"has {LONG_FACTORS}": scaling.long_factors or scaling.factors,
                prefix + "scaling.attn_factor": scaling.magnitude,
                prefix + "scaling.original_context_length": scaling.original_max_seq_len,
            }
        if scaling.kind == "longrope":
            return entries | ({f"has {ROPE_FACTORS}": scaling.factors} if divisors else {})
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
    if kind not in ("none", "linear", "yarn", "longrope"):
        raise CheckpointError(f"The GGUF file scales rotary positions by {kind!r}; linear, yarn and longrope work.")
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
        scaling = RopeScaling(kind="longrope", factors=_scaled(divisors, factor))
    elif f"has {LONG_FACTORS}" in entries and f"has {SHORT_FACTORS}" in entries:
        short, long = (_scaled(entries[f"has {name}"], factor) for name in (SHORT_FACTORS, LONG_FACTORS))
        return RopeScaling(
            kind="longrope",
            factors=short,
            long_factors=() if short == long else long,
            original_max_seq_len=given["scaling.original_context_length"] or _context_length(entries),
            attention_factor=magnitude,
        )
    else:
        scaling = RopeScaling(kind="linear", factor=factor)
    if magnitude != 1.0:
        return replace(scaling, attention_factor=magnitude)
    return None if scaling == RopeScaling(kind="linear") else scaling


def _scaled(divisors: list[float], factor: float) -> tuple[float, ...]:
    return tuple(factor * float(divisor) for divisor in divisors)


def _context_length(entries: Json) -> int:
    return next(value for name, value in entries.items() if name.endswith(".context_length"))


def experts(arch: str) -> Section:
    def read(entries: Json) -> Json:
        count = entries.get(f"{arch}.expert_count", 0)
        top_k = entries.get(f"{arch}.expert_used_count", 0)
        return {"use_moe": True, "num_experts": count, "top_k": top_k} if count else {}

    def write(config: ModelConfig) -> Json:
        if not config.use_moe:
            return {}
        return {f"{arch}.expert_count": config.num_experts, f"{arch}.expert_used_count": config.top_k}

    return Section(read, write)


def windows(arch: str, every: int, default: int | None = None, *, rotated: bool = False) -> Section:
    """All layers but every `every`-th have the window, unless the file has another number or says it for each layer.

    Args:
        default: size of the window where the file has none; unless given, there is then no window.
        rotated: only layers with a window have rotary positions.
    """
    window, pattern = f"{arch}.attention.sliding_window", f"{arch}.attention.sliding_window_pattern"

    def read(entries: Json) -> Json:
        count, said = entries[f"{arch}.block_count"], entries.get(pattern, every)
        windowed = said[:count] if isinstance(said, list) else [not said or (i + 1) % said != 0 for i in range(count)]
        size = entries.get(window, default)
        layers = tuple(map(bool, windowed))
        fields = {"window_size": size, "window_layers": layers} if size and any(layers) else {}
        return fields | ({"rope_layers": layers} if rotated else {})

    def write(config: ModelConfig) -> Json:
        windowed = [config.window(i) is not None for i in range(config.num_layers)]
        usual = [(i + 1) % every != 0 for i in range(config.num_layers)]
        return {window: config.window_size or 0} | ({} if windowed == usual else {pattern: windowed})

    return Section(read, write)


def attention_scale(arch: str, layers: int) -> Section:
    """llama.cpp knows a model of 27B by its number of layers: its scale is not that of the head size."""

    def read(entries: Json) -> Json:
        if entries[f"{arch}.block_count"] != layers:
            return {}
        return {
            "attention_scale": (entries[f"{arch}.embedding_length"] // entries[f"{arch}.attention.head_count"]) ** -0.5
        }

    return Section(read, lambda _: {})


def positions_on_most(arch: str, every: int) -> Section:
    """Every so manieth layer has no rotary positions."""

    def read(entries: Json) -> Json:
        return {"rope_layers": tuple((i + 1) % every != 0 for i in range(entries[f"{arch}.block_count"]))}

    return Section(read, lambda _: {})


def unscaled_in_windows(arch: str) -> Section:
    """Rotary positions are not scaled in layers with a window."""
    return Section(lambda entries: {"window_rope_theta": entries.get(f"{arch}.rope.freq_base", 10000.0)}, lambda _: {})


def only_with_layers(arch: str, layers: int, section: Section) -> Section:
    """llama.cpp knows the model that a section describes by its number of layers."""

    def read(entries: Json) -> Json:
        return section.read(entries) if entries[f"{arch}.block_count"] == layers else {}

    return Section(read, lambda config: section.write(config) if config.num_layers == layers else {})


def shared_experts(arch: str) -> Section:
    """Experts that every token visits, as one, and dense layers before the others; layers that predict further tokens
    (multi-token prediction), which are counted too, are left out."""
    count, dense = f"{arch}.expert_shared_count", f"{arch}.leading_dense_block_count"

    def read(entries: Json) -> Json:
        layers = entries[f"{arch}.block_count"] - entries.get(f"{arch}.nextn_predict_layers", 0)
        size = entries[count] * entries[f"{arch}.expert_feed_forward_length"]
        first = entries.get(dense, 0)
        return {
            "num_layers": layers,
            "moe_layers": tuple(i >= first for i in range(layers)),
            "shared_expert_size": size or None,
        }

    def write(config: ModelConfig) -> Json:
        return {
            count: (config.shared_expert_size or 0) // config.ffn_size,
            dense: sum(not config.has_experts(i) for i in range(config.num_layers)),
            f"{arch}.expert_gating_func": SIGMOID,
        }

    return Section(read, write)


SIGMOID = 2  # llama.cpp's number for it as the router's function
PREDICTION_LAYER = re.compile(r"(blk\.\d+\.)nextn\.")


def without_prediction_layers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without those of layers that predict further tokens."""
    left_out = tuple({match[1] for name in tensors if (match := PREDICTION_LAYER.match(name))})
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(left_out)}


# Entries of the groups rope and attention that are read, or that change nothing here; any other is refused.
KNOWN = frozenset(
    {"rope.freq_base", "rope.freq_base_swa", "rope.dimension_count", *(f"rope.{name}" for name in SCALING)}
    | {"attention.value_length", "attention.sliding_window", "attention.sliding_window_pattern", "attention.causal"}
    | {"attention.head_count", "attention.head_count_kv", "attention.layer_norm_epsilon"}
)
