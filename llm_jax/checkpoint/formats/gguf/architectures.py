"""The architectures of llama.cpp as families: the metadata and tensor names of GGUF files."""

import operator
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from llm_jax.checkpoint.families.gemma import ALWAYS_1
from llm_jax.checkpoint.families.llama import ALWAYS
from llm_jax.checkpoint.families.llama_relatives import inverse
from llm_jax.checkpoint.family import Key, Section, canonical
from llm_jax.checkpoint.formats.gguf.architecture import Architecture
from llm_jax.checkpoint.formats.gguf.entries import (
    BIASES,
    KNOWN,
    attention_scale,
    experts,
    keys,
    only_with_layers,
    positions_on_most,
    rope,
    shared_experts,
    unscaled_in_windows,
    values,
    windows,
    without_prediction_layers,
)
from llm_jax.checkpoint.formats.gguf.tables import (
    FALCON_TABLE,
    FALCON_TWO_NORMS_TABLE,
    GLM4_TABLE,
    GPT2_TABLE,
    GPT_OSS_TABLE,
    INTERLEAVED,
    LLAMA_TABLE,
    PHI3_TABLE,
    POST_ATTENTION_TABLE,
    STARCODER2_TABLE,
)
from llm_jax.checkpoint.names import Rule
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError
from llm_jax.model import rope_frequencies


def _architecture(
    name: str,
    table: tuple[Rule, ...] | Callable[[ModelConfig], tuple[Rule, ...]],
    *,
    sections: tuple[Section, ...] = (),
    tied: bool | None = None,
    **rest: Any,
) -> Architecture:
    """Args: tied: whether head and embedding are one table; unless given, a file says it."""
    rest["keys"] = keys(name) | rest.get("keys", {})
    if tied is not None:
        del rest["keys"]["tie_embeddings"]
        rest["always"] = rest["always"] | {"tie_embeddings": tied}
    rest["known"] = frozenset(f"{name}.{entry}" for entry in KNOWN) | {key.name for key in rest["keys"].values()}
    return Architecture(
        model_type=name,
        architecture=name,
        table=table if callable(table) else lambda _: table,
        sections=(values(name), *sections),
        **rest,
    )


SILU = ALWAYS | {"activation": "silu"}
GEMMAS = ALWAYS_1 | {"activation": "gelu_tanh"}
WITHOUT_GATE = {"activation": "gelu_tanh", "lm_head_bias": False, "embedding_scale": 1.0, "dropout": 0.0}
QKV_BIAS = {"qkv_bias": BIASES["qkv_bias"]}
LAYER_NORM = ALWAYS | {"norm": "layer_norm", "activation": "silu"}
PARALLEL = {"parallel_residual": True, "shared_norm": True}
OUTPUT_NORMS = SILU | {"sandwich_norm": True, "input_norm": False}


def _layer_norm_eps(name: str) -> dict[str, Key]:
    return {"norm_eps": Key(f"{name}.attention.layer_norm_epsilon")}


def _expert_size(name: str) -> dict[str, Key]:
    return {"intermediate_size": Key(f"{name}.expert_feed_forward_length")}


LLAMA = _architecture(
    "llama", LLAMA_TABLE, keys=BIASES, always=SILU, orders=INTERLEAVED,
    sections=(rope("llama", divisors=True), experts("llama")),
)  # fmt: skip
QWEN2 = _architecture(
    "qwen2", LLAMA_TABLE, always=SILU | {"qkv_bias": True, "out_bias": False}, sections=(rope("qwen2"),)
)
QWEN2_MOE = _architecture(
    "qwen2moe", LLAMA_TABLE, tied=False, sections=(rope("qwen2moe"), experts("qwen2moe")),
    always=SILU | {"moe_renormalize": False, "shared_expert_gate": True, "out_bias": False},
    keys=_expert_size("qwen2moe")
    | QKV_BIAS
    | {"shared_expert_size": Key("qwen2moe.expert_shared_feed_forward_length")},
)  # fmt: skip
QWEN3 = _architecture("qwen3", LLAMA_TABLE, always=SILU | {"qk_norm": "head"}, sections=(rope("qwen3"),))
QWEN3_MOE = _architecture(
    "qwen3moe", LLAMA_TABLE, always=SILU | {"qk_norm": "head"}, sections=(rope("qwen3moe"), experts("qwen3moe")),
    keys=_expert_size("qwen3moe"),
)  # fmt: skip
GEMMA = _architecture("gemma", LLAMA_TABLE, always=GEMMAS, offset_norms=True, sections=(rope("gemma"),))
GEMMA2 = _architecture(
    "gemma2", LLAMA_TABLE, always=GEMMAS | {"sandwich_norm": True}, offset_norms=True,
    sections=(rope("gemma2"), windows("gemma2", 2, 4096), attention_scale("gemma2", 46)),
    keys={
        "attention_softcap": Key("gemma2.attn_logit_softcapping", 50.0),
        "logit_softcap": Key("gemma2.final_logit_softcapping", 30.0),
    },
)  # fmt: skip
GEMMA3 = _architecture(
    "gemma3", LLAMA_TABLE, always=GEMMAS | {"sandwich_norm": True, "qk_norm": "head"}, offset_norms=True,
    sections=(rope("gemma3"), windows("gemma3", 6), attention_scale("gemma3", 62)),
    keys={
        "window_rope_theta": Key("gemma3.rope.freq_base_swa", 10000.0),
        "logit_softcap": Key("gemma3.final_logit_softcapping", None, read=lambda cap: cap or None),
    },
)  # fmt: skip
PHI3 = _architecture("phi3", PHI3_TABLE, always=SILU, sections=(rope("phi3", partial=True, longrope=True),))
GPT2 = _architecture("gpt2", GPT2_TABLE, always=WITHOUT_GATE | {"positions": "learned"}, keys=_layer_norm_eps("gpt2"))
STARCODER2 = _architecture(
    "starcoder2", STARCODER2_TABLE, always=WITHOUT_GATE | {"positions": "rotary"}, sections=(rope("starcoder2"),),
    keys=BIASES | _layer_norm_eps("starcoder2"),
)  # fmt: skip
SMOLLM3 = _architecture(
    "smollm3", LLAMA_TABLE, always=SILU, orders=INTERLEAVED, sections=(rope("smollm3"), positions_on_most("smollm3", 4))
)
GRANITE = _architecture(
    "granite", LLAMA_TABLE, always={name: value for name, value in SILU.items() if name != "embedding_scale"},
    orders=INTERLEAVED, sections=(rope("granite", divisors=True),),
    keys={
        "embedding_scale": Key("granite.embedding_scale", 1.0),
        "logit_scale": Key("granite.logit_scale", read=lambda value: 1 / value, write=inverse),
        "residual_scale": Key("granite.residual_scale", 1.0),
        "attention_scale": Key("granite.attention.scale", None),
    },
)  # fmt: skip
OLMO2 = _architecture(
    "olmo2", LLAMA_TABLE, tied=False, always=OUTPUT_NORMS | {"qk_norm": "width"},
    sections=(rope("olmo2"), windows("olmo2", 4), unscaled_in_windows("olmo2")),
)  # fmt: skip
OLMOE = _architecture(
    "olmoe", LLAMA_TABLE, tied=False, always=SILU | {"qk_norm": "width", "moe_renormalize": False},
    sections=(rope("olmoe"), experts("olmoe")),
)  # fmt: skip
EXAONE4 = _architecture(
    "exaone4", LLAMA_TABLE, always=OUTPUT_NORMS | {"qk_norm": "head"},
    sections=(
        rope("exaone4", divisors=True), only_with_layers("exaone4", 64, windows("exaone4", 4, 4096, rotated=True)),
    ),
)  # fmt: skip
GLM4 = _architecture(
    "glm4", GLM4_TABLE, always=SILU | {"sandwich_norm": True, "out_bias": False}, keys=QKV_BIAS, orders=INTERLEAVED,
    sections=(rope("glm4", partial=True),),
)  # fmt: skip
GLM4_MOE = _architecture(
    "glm4moe", POST_ATTENTION_TABLE, restore=without_prediction_layers,
    always=SILU | {"router": "sigmoid", "out_bias": False},
    sections=(rope("glm4moe", partial=True), experts("glm4moe"), shared_experts("glm4moe")),
    keys=_expert_size("glm4moe")
    | QKV_BIAS
    | {
        "dense_size": Key("glm4moe.feed_forward_length"),
        "expert_scale": Key("glm4moe.expert_weights_scale", 1.0),
        "moe_renormalize": Key("glm4moe.expert_weights_norm", False),
        "qk_norm": Key(
            "has blk.0.attn_q_norm.weight", False, read=lambda has: "head" if has else None, write=bool
        ),
    },
)  # fmt: skip
COMMAND_R = _architecture(
    "command-r", LLAMA_TABLE, tied=True, always=LAYER_NORM | PARALLEL | {"norm_bias": False}, orders=INTERLEAVED,
    sections=(rope("command-r"),),
    keys=_layer_norm_eps("command-r") | {"logit_scale": Key("command-r.logit_scale", 1.0)},
)  # fmt: skip
COHERE2 = _architecture(
    "cohere2", LLAMA_TABLE, tied=True, always=LAYER_NORM | PARALLEL | {"norm_bias": False}, orders=INTERLEAVED,
    sections=(rope("cohere2"), windows("cohere2", 4, rotated=True)),
    keys=_layer_norm_eps("cohere2") | {"logit_scale": Key("cohere2.logit_scale")},
)  # fmt: skip
ERNIE4_5 = _architecture(
    "ernie4_5", LLAMA_TABLE, always=SILU, orders=INTERLEAVED, sections=(rope("ernie4_5"),),
    keys={name: BIASES[name] for name in ("qkv_bias", "out_bias")},
)  # fmt: skip
SEED_OSS = _architecture(
    "seed_oss", POST_ATTENTION_TABLE, always=SILU | {"out_bias": False}, keys=QKV_BIAS, sections=(rope("seed_oss"),)
)
ARCEE = _architecture(
    "arcee", STARCODER2_TABLE, always=SILU | {"activation": "relu2", "use_glu": False}, orders=INTERLEAVED,
    sections=(rope("arcee", divisors=True),),
)  # fmt: skip
NEMOTRON = _architecture(
    "nemotron", STARCODER2_TABLE, tied=False, offset_norms=True,
    always=LAYER_NORM | {"norm_offset": 1.0, "activation": "relu2", "use_glu": False},
    sections=(rope("nemotron", partial=True),), keys=BIASES | _layer_norm_eps("nemotron"),
)  # fmt: skip
STABLELM = _architecture(
    "stablelm", LLAMA_TABLE, tied=False, always=LAYER_NORM | {"out_bias": False},
    sections=(rope("stablelm", partial=True),),
    keys=QKV_BIAS
    | _layer_norm_eps("stablelm")
    | dict.fromkeys(PARALLEL, Key("has blk.0.ffn_norm.weight", False, operator.not_, operator.not_)),
)  # fmt: skip
HUNYUAN_DENSE = _architecture(
    "hunyuan-dense", LLAMA_TABLE, always=SILU | {"qk_norm": "rotated_head"}, sections=(rope("hunyuan-dense"),)
)
PHI2 = _architecture(
    "phi2", STARCODER2_TABLE, tied=False,
    always=WITHOUT_GATE | PARALLEL | {"positions": "rotary", "lm_head_bias": True},
    sections=(rope("phi2", partial=True),), keys=_layer_norm_eps("phi2"),
)  # fmt: skip
GPT_NEOX = _architecture(
    "gptneox", GPT2_TABLE, tied=False, always=WITHOUT_GATE | {"positions": "rotary"},
    sections=(rope("gptneox", partial=True),),
    keys=_layer_norm_eps("gptneox") | {"parallel_residual": Key("gptneox.use_parallel_residual", True)},
)  # fmt: skip
FALCON = _architecture(
    "falcon", lambda config: FALCON_TABLE if config.shared_norm else FALCON_TWO_NORMS_TABLE,
    always=WITHOUT_GATE
    | {"positions": "rotary", "parallel_residual": True, "qkv_bias": False, "mlp_bias": False},
    sections=(rope("falcon"),),
    keys=_layer_norm_eps("falcon")
    | {"shared_norm": Key("has blk.0.attn_norm_2.weight", False, operator.not_, operator.not_)},
)  # fmt: skip
GPT_OSS = _architecture(
    "gpt-oss", GPT_OSS_TABLE, tied=False,
    always=SILU
    | {"qkv_bias": True, "mlp_bias": True, "router_bias": True, "attention_sinks": True, "expert_clamp": 7.0},
    sections=(rope("gpt-oss"), experts("gpt-oss"), windows("gpt-oss", 2)), keys=_expert_size("gpt-oss"),
)  # fmt: skip

# In the order in which they are tried: llama.cpp's llama can express most of its qwen2.
ARCHITECTURES = (
    *(QWEN2, LLAMA, QWEN3, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, PHI3, GPT2, STARCODER2, SMOLLM3, GRANITE, OLMO2, OLMOE),
    *(EXAONE4, GLM4, GLM4_MOE, COMMAND_R, COHERE2, ERNIE4_5, SEED_OSS, ARCEE, NEMOTRON, STABLELM, HUNYUAN_DENSE, PHI2),
    *(GPT_NEOX, FALCON, QWEN2_MOE, GPT_OSS),
)


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
