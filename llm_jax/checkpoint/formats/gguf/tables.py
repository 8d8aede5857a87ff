"""The names of tensors in GGUF files."""

from dataclasses import replace

from llm_jax.checkpoint.families.parts import BLOCK, interleaved
from llm_jax.checkpoint.names import Layout, Rule, linear, qkv_rows, same

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
    same("lm_head.bias", "output.bias"),
)
QKV = tuple(
    Rule((BLOCK + f"self_attn.qkv_proj.{part}",), tuple(LAYER + f"attn_{x}.{part}" for x in "qkv"), rows=qkv_rows)
    for part in ("weight", "bias")
)
INTERLEAVED = (interleaved(r"blk\.\d+\.attn_(?P<head>[qk])\.(weight|bias)"),)
FUSED_QKV = _both("self_attn.qkv_proj", "attn_qkv")
GATED = (*_both("mlp.fc1", "ffn_gate"), *_both("mlp.gate_proj", "ffn_up"))
EXPERTS = (
    *_both("mlp.router", "ffn_gate_inp"),
    *_both("mlp.experts.fc1", "ffn_gate_exps"),
    *_both("mlp.experts.gate_proj", "ffn_up_exps"),
    *_both("mlp.experts.fc2", "ffn_down_exps"),
    same(BLOCK + "mlp.router.correction", LAYER + "exp_probs_b.bias"),
    *_both("mlp.shared_expert.fc1", "ffn_gate_shexp"),
    *_both("mlp.shared_expert.gate_proj", "ffn_up_shexp"),
    *_both("mlp.shared_expert.fc2", "ffn_down_shexp"),
    Rule(
        (BLOCK + "mlp.shared_expert_gate.weight",),
        (LAYER + "ffn_gate_inp_shexp.weight",),
        layout=Layout(lambda params: params[0][1:], lambda stored: [stored[None]], lambda params: params[0][0]),
    ),
)
UNGATED = _both("mlp.fc1", "ffn_up")
FUSED_GATED = (Rule((BLOCK + "mlp.fc1.weight", BLOCK + "mlp.gate_proj.weight"), (LAYER + "ffn_up.weight",)),)

LLAMA_TABLE = (*COMMON, *QKV, *GATED, *EXPERTS)
PHI3_TABLE = (*COMMON, *FUSED_QKV, *FUSED_GATED)
GPT2_TABLE = (*COMMON, *FUSED_QKV, *UNGATED)
STARCODER2_TABLE = (*COMMON, *QKV, *UNGATED)
GLM4_TABLE = (*COMMON, *QKV, *FUSED_GATED)


def renamed(table: tuple[Rule, ...], names: dict[str, str]) -> tuple[Rule, ...]:
    """The table with other names of tensors, without those that are renamed to nothing."""
    changed = ((rule, tuple(_renamed(name, names) for name in rule.stored)) for rule in table)
    return tuple(replace(rule, stored=stored) for rule, stored in changed if all(stored))


def _renamed(name: str, names: dict[str, str]) -> str:
    part = name.removeprefix(LAYER).rsplit(".", 1)[0]
    new = names.get(part, part)
    return name.replace(f"{part}.", f"{new}.") if new else ""


# The norm before the feed-forward under the name of one behind attention.
POST_ATTENTION_TABLE = renamed(
    tuple(rule for rule in LLAMA_TABLE if "post_attn_norm" not in rule.params[0]), {"ffn_norm": "post_attention_norm"}
)
GPT_OSS_TABLE = (*POST_ATTENTION_TABLE, same(BLOCK + "self_attn.sinks", LAYER + "attn_sinks.weight"))
FALCON_TABLE = GPT2_TABLE
FALCON_TWO_NORMS_TABLE = renamed(GPT2_TABLE, {"attn_norm": "attn_norm_2", "ffn_norm": "attn_norm"})
