"""Tiny random models of every family, made by transformers, as references for tests."""

import copy
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

CONTEXT = 28
SMALL = {
    "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": CONTEXT, "vocab_size": 61,
}  # fmt: skip
NO_SPECIAL_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 100.0, "short_factor": [1.0, 1.7], "long_factor": [2.0, 9.0],
    "attention_factor": 1.3, "partial_rotary_factor": 0.5,
}  # fmt: skip
MULTIPLIERS = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.5, "residual_multiplier": 0.4, "attention_multiplier": 0.3,
}  # fmt: skip
EXPERTS = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
GEMMA = {"head_dim": 12, "query_pre_attn_scalar": 24, "sliding_window": 5}

# (model_type, a name for the shape) -> entries that differ from SMALL.
SHAPES: dict[tuple[str, str], dict[str, Any]] = {
    ("llama", "plain"): {"num_key_value_heads": 4},
    ("llama", "tied, biases, own head size, llama3 rope"): {
        "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 6, "vocab_size": 101,
        "rope_parameters": LLAMA3,
    },
    ("llama", "one key head, linear rope"): {
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0},
    },
    ("mistral", "window"): {"sliding_window": 5, "head_dim": 16},
    ("mistral", "no window"): {"sliding_window": None, "rms_norm_eps": 1e-5},
    ("qwen2", "tied, yarn"): {"tie_word_embeddings": True, "vocab_size": 67, "rope_parameters": YARN},
    ("qwen2", "window on the upper layer"): {
        "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
    },
    ("qwen3", "biases"): {"head_dim": 12, "attention_bias": True},
    ("qwen3", "window, tied"): {
        "head_dim": 8, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0,
        "tie_word_embeddings": True,
    },
    ("mixtral", "window"): {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 7},
    ("mixtral", "one expert a token"): {"num_local_experts": 3, "num_experts_per_tok": 1, "vocab_size": 37},
    ("qwen3_moe", "renormalised"): {
        "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 16, "norm_topk_prob": True, "head_dim": 8,
    },
    ("qwen3_moe", "not renormalised, biases"): {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 10, "attention_bias": True,
    },
    ("gemma", "tied"): {"head_dim": 12},
    ("gemma", "untied, one key head, biases"): {
        "head_dim": 8, "num_key_value_heads": 1, "tie_word_embeddings": False, "attention_bias": True,
    },
    ("gemma2", "soft caps"): GEMMA | {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 3.0},
    ("gemma2", "no caps, biases"): GEMMA | {
        "attn_logit_softcapping": None, "final_logit_softcapping": None, "attention_bias": True, "vocab_size": 83,
    },
    ("gemma3_text", "scaled rope on full layers"): GEMMA | {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    ("gemma3_text", "untied, all windows"): GEMMA | {"tie_word_embeddings": False, "num_key_value_heads": 4},
    ("phi3", "half rotated, window"): {
        "sliding_window": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
    },
    ("phi3", "longrope"): {"rope_parameters": LONGROPE, "original_max_position_embeddings": CONTEXT},
    ("phi3", "longrope beyond its original context"): {
        "rope_parameters": LONGROPE, "original_max_position_embeddings": 16,
    },
    ("llama", "yarn without truncation"): {"rope_parameters": YARN | {"truncate": False}},
    ("llama", "dynamic rope"): {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 90.0}},
    ("smollm3", "tied"): {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 1]},
    ("smollm3", "untied, biases, windows"): {
        "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True, "no_rope_layer_interval": 2,
        "use_sliding_window": True, "sliding_window": 5,
    },
    ("granite", "multipliers"): MULTIPLIERS,
    ("granite", "tied, biases"): MULTIPLIERS | {
        "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "logits_scaling": 49.0,
    },
    ("olmo2", "plain"): {},
    ("olmo2", "tied, biases, all key heads, yarn"): {
        "tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 4, "rope_parameters": YARN,
    },
    ("olmo3", "windows, yarn on full layers"): {
        "num_hidden_layers": 4, "sliding_window": 5,
        "rope_parameters": {
            "full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    ("olmo3", "all windows"): {"sliding_window": 4, "layer_types": ["sliding_attention"] * 2},
    ("exaone4", "windows"): {"num_hidden_layers": 4, "sliding_window": 5, "head_dim": 8},
    ("exaone4", "tied, no windows"): {
        "tie_word_embeddings": True, "sliding_window": None, "layer_types": ["full_attention"] * 2,
    },
    ("glm", "plain"): {"head_dim": 8},
    ("glm", "no biases, a quarter rotated"): {
        "head_dim": 16, "attention_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 90.0, "partial_rotary_factor": 0.25},
    },
    ("glm4", "plain"): {"head_dim": 8},
    ("glm4", "tied, no biases"): {"head_dim": 12, "attention_bias": False, "tie_word_embeddings": True},
    ("cohere", "plain"): {"logit_scale": 0.3},
    ("cohere", "untied, biases"): {"tie_word_embeddings": False, "attention_bias": True},
    ("cohere2", "windows"): {"num_hidden_layers": 4, "sliding_window": 5, "logit_scale": 0.3},
    ("cohere2", "one key head, biases"): {
        "num_key_value_heads": 1, "attention_bias": True, "sliding_window": 6,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    ("ernie4_5", "tied"): {"head_dim": 8},
    ("ernie4_5", "untied, biases"): {"head_dim": 12, "use_bias": True, "tie_word_embeddings": False},
    ("seed_oss", "plain"): {"head_dim": 12},
    ("seed_oss", "all biases"): {"head_dim": 8, "attention_out_bias": True, "mlp_bias": True},
    ("arcee", "plain"): {},
    ("arcee", "tied, biases"): {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 8},
    ("helium", "plain"): {"head_dim": 8},
    ("helium", "tied, biases"): {"head_dim": 8, "tie_word_embeddings": True, "attention_bias": True},
    ("nemotron", "plain"): {"head_dim": 8},
    ("nemotron", "tied, biases, all rotated"): {
        "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "partial_rotary_factor": 1.0,
    },
    ("stablelm", "plain"): {"partial_rotary_factor": 0.5},
    ("stablelm", "parallel, biases"): {"use_parallel_residual": True, "use_qkv_bias": True},
    ("hunyuan_v1_dense", "plain"): {"head_dim": 8},
    ("hunyuan_v1_dense", "alpha, biases, tied"): {
        "head_dim": 12, "attention_bias": True, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 90.0},
    },
    ("phi", "plain"): {},
    ("phi", "all rotated, all key heads"): {"partial_rotary_factor": 1.0, "num_key_value_heads": 4},
    ("gpt_neox", "parallel"): {"partial_rotary_factor": 0.5},
    ("gpt_neox", "in turn, no biases"): {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0},
    ("gptj", "plain"): {"rotary_dim": 4},
    ("gptj", "all rotated"): {"rotary_dim": 8, "n_inner": 24},
    ("falcon", "one key head"): {"multi_query": True, "parallel_attn": True},
    ("falcon", "new decoder"): {"new_decoder_architecture": True, "num_kv_heads": 2},
    ("falcon", "new decoder, one norm, biases"): {
        "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1, "bias": True,
    },
    ("falcon", "in turn, all key heads, untied"): {
        "multi_query": False, "parallel_attn": False, "tie_word_embeddings": False, "bias": True,
    },
    ("qwen2_moe", "all sparse"): EXPERTS | {"shared_expert_intermediate_size": 20},
    ("qwen2_moe", "dense layers, windows, renormalised"): EXPERTS | {
        "shared_expert_intermediate_size": 12, "decoder_sparse_step": 2, "norm_topk_prob": True, "num_hidden_layers": 4,
        "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3, "qkv_bias": False,
    },
    ("qwen3_moe", "dense layers"): EXPERTS | {"mlp_only_layers": [0], "head_dim": 8},
    ("olmoe", "plain"): {"num_experts": 5, "num_experts_per_tok": 2},
    ("olmoe", "renormalised, tied"): {
        "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True, "tie_word_embeddings": True,
    },
    ("glm4_moe", "q/k norms"): EXPERTS | {
        "n_routed_experts": 6, "use_qk_norm": True, "head_dim": 8, "routed_scaling_factor": 2.5,
    },
    ("glm4_moe", "two shared experts, biases"): EXPERTS | {
        "n_routed_experts": 4, "n_shared_experts": 2, "attention_bias": True, "num_hidden_layers": 3,
        "first_k_dense_replace": 2, "norm_topk_prob": False, "head_dim": 8,
    },
    ("gpt_oss", "yarn"): {
        "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 5, "swiglu_limit": 2.0,
        "rope_parameters": YARN | {"truncate": False, "beta_fast": 4.0},
    },
    ("gpt_oss", "tied, no biases of attention"): {
        "num_local_experts": 3, "num_experts_per_tok": 1, "head_dim": 16, "attention_bias": False,
        "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 90.0},
    },
    ("gpt2", "tied"): {},
    ("gpt2", "untied, relu"): {"tie_word_embeddings": False, "activation_function": "relu", "n_inner": 24},
    ("starcoder2", "tied, linear rope"): {
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 90.0},
    },
    ("starcoder2", "untied, no biases, window"): {
        "tie_word_embeddings": False, "use_bias": False, "sliding_window": 5, "vocab_size": 53,
    },
}  # fmt: skip


def make(model_type: str, changes: dict[str, Any], seed: int = 0) -> PreTrainedModel:
    """A model in which every weight affects the logits: larger than at initialisation, norms and biases random too."""
    names = SMALL | NO_SPECIAL_IDS | copy.deepcopy(changes)  # transformers completes rotary parameters in place
    if model_type in ("gpt2", "gptj"):
        renamed = {"max_position_embeddings": "n_positions", "hidden_size": "n_embd", "num_hidden_layers": "n_layer"}
        renamed |= {"num_attention_heads": "n_head"}
        names = {
            renamed.get(name, name): value
            for name, value in names.items()
            if name not in ("intermediate_size", "num_key_value_heads")
        }
    if model_type == "falcon":
        names["ffn_hidden_size"] = names.pop("intermediate_size")
    config = AutoConfig.for_model(model_type, **names)
    transformers.set_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.2 * noise if parameter.dim() == 1 else 0.2 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.copy_(0.2 * torch.randn_like(buffer))
    return model


def save(model: PreTrainedModel, directory: Path, **options: Any) -> Path:
    model.save_pretrained(directory, **options)
    return directory
