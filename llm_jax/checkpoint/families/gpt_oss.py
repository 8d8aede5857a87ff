"""gpt-oss: experts with biases and clamped gates, attention sinks, windows on every second layer; weights in MXFP4."""

import ml_dtypes
import numpy as np

from llm_jax.checkpoint.families.llama import ALWAYS, KEYS, llama_like
from llm_jax.checkpoint.families.parts import ATTENTION, BLOCK, ENDS, LAYER, PRE_NORMS, alternating_windows
from llm_jax.checkpoint.families.rope import rope_section
from llm_jax.checkpoint.family import Json, Key, Section
from llm_jax.checkpoint.names import Layout, Rule, linear, same
from llm_jax.checkpoint.tensors import LazyTensor, Shape, Tensor


def _last_two_swapped(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])


# fc1 and gate_proj in turn along the outputs; matrices are [E, in, out].
GATE_UP = Layout(
    shape=lambda params: _last_two_swapped((params[0][0], 2 * params[0][1], params[0][2])),
    read=lambda stored: [stored[..., 0::2].swapaxes(1, 2), stored[..., 1::2].swapaxes(1, 2)],
    write=lambda params: np.stack(params, axis=2).reshape(len(params[0]), -1, params[0].shape[2]).swapaxes(1, 2),
)
GATE_UP_BIAS = Layout(
    shape=lambda params: (params[0][0], 2 * params[0][1]),
    read=lambda stored: [stored[:, 0::2], stored[:, 1::2]],
    write=lambda params: np.stack(params, axis=2).reshape(len(params[0]), -1),
)
DOWN = Layout(
    shape=lambda params: _last_two_swapped(params[0]),
    read=lambda stored: [stored.swapaxes(1, 2)],
    write=lambda params: params[0].swapaxes(1, 2),
)
EXPERTS = BLOCK + "mlp.experts."
TABLE = (
    *ENDS,
    *PRE_NORMS,
    *ATTENTION,
    same(BLOCK + "self_attn.sinks", LAYER + "self_attn.sinks"),
    *linear(BLOCK + "mlp.router", LAYER + "mlp.router"),
    Rule((EXPERTS + "fc1.weight", EXPERTS + "gate_proj.weight"), (LAYER + "mlp.experts.gate_up_proj",), layout=GATE_UP),
    Rule(
        (EXPERTS + "fc1.bias", EXPERTS + "gate_proj.bias"),
        (LAYER + "mlp.experts.gate_up_proj_bias",),
        layout=GATE_UP_BIAS,
    ),
    Rule((EXPERTS + "fc2.weight",), (LAYER + "mlp.experts.down_proj",), layout=DOWN),
    same(EXPERTS + "fc2.bias", LAYER + "mlp.experts.down_proj_bias"),
)

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BLOCKS, SCALES = "_blocks", "_scales"


def dequantised(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 values of four bits with a common power of two, in bfloat16.

    Files have rows [E, out, in / 32, 16] and exponents [E, out, in / 32].
    """
    plain = {name: tensor for name, tensor in tensors.items() if not name.endswith((BLOCKS, SCALES))}
    for name in tensors:
        scales = name.removesuffix(BLOCKS) + SCALES
        if name.endswith(BLOCKS) and scales in tensors:
            plain[name.removesuffix(BLOCKS)] = _mxfp4(tensors[name], tensors[scales])
        elif name.endswith(BLOCKS) or (name.endswith(SCALES) and name.removesuffix(SCALES) + BLOCKS not in tensors):
            plain[name] = tensors[name]  # the table refuses it by name
    return plain


def _mxfp4(blocks: Tensor, scales: Tensor) -> LazyTensor:
    experts, outputs = blocks.shape[:2]
    inputs = 2 * int(np.prod(blocks.shape[2:]))

    def read() -> np.ndarray:
        bytes_ = np.asarray(blocks).reshape(experts, outputs, -1, 16)
        values = np.stack([FP4[bytes_ & 15], FP4[bytes_ >> 4]], axis=-1).reshape(experts, outputs, -1, 32)
        whole = np.ldexp(values, np.asarray(scales).astype(np.int32)[..., None] - 127)
        return whole.reshape(experts, outputs, inputs).swapaxes(1, 2).astype(ml_dtypes.bfloat16)

    return LazyTensor((experts, inputs, outputs), np.dtype(ml_dtypes.bfloat16), read)


ROPE = rope_section(150_000.0)
USUAL_ROPE = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip


def _read_rope(entries: Json) -> Json:
    is_said = "rope_scaling" in entries or entries.get("rope_parameters")
    return ROPE.read(entries if is_said else entries | {"rope_parameters": USUAL_ROPE})


GPT_OSS = llama_like(
    "gpt_oss", "GptOssForCausalLM", TABLE,
    keys=KEYS
    | {
        "head_dim": Key("head_dim", 64),
        "max_seq_len": Key("max_position_embeddings", 131072),
        "norm_eps": Key("rms_norm_eps", 1e-5),
        "num_experts": Key("num_local_experts", 128),
        "top_k": Key("num_experts_per_tok", 4, aliases=("experts_per_token",)),
        "qkv_bias": Key("attention_bias", True),
        "expert_clamp": Key("swiglu_limit", 7.0),
    },
    always={name: value for name, value in ALWAYS.items() if name != "mlp_bias"}
    | {"use_moe": True, "router_bias": True, "attention_sinks": True},
    sections=(Section(_read_rope, ROPE.write), alternating_windows(2, 128)),
    restore=dequantised,
    unsupported={"swiglu_alpha": 1.702},
)  # fmt: skip
