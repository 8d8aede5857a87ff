"""Tiny random models of every family, made by transformers, as references for tests."""

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
    names = SMALL | NO_SPECIAL_IDS | changes
    if model_type == "gpt2":
        renamed = {"max_position_embeddings": "n_positions", "hidden_size": "n_embd", "num_hidden_layers": "n_layer"}
        renamed |= {"num_attention_heads": "n_head"}
        names = {
            renamed.get(name, name): value
            for name, value in names.items()
            if name not in ("intermediate_size", "num_key_value_heads")
        }
    config = AutoConfig.for_model(model_type, **names)
    transformers.set_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(parameter + 0.2 * noise if parameter.dim() == 1 else 0.2 * noise)
    return model


def save(model: PreTrainedModel, directory: Path, **options: Any) -> Path:
    model.save_pretrained(directory, **options)
    return directory
