"""Models that see pictures as well: their text half, which is a model of another family."""

import re
from collections.abc import Mapping

import numpy as np

from llm_jax.checkpoint.family import Json

# model_type -> the family of its text half, and entries that its text_config leaves out where they are the default.
WRAPPERS: dict[str, tuple[str, Json]] = {
    "gemma3": (
        "gemma3_text",
        {
            "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
        },
    ),
    "mistral3": ("mistral", {}),
    "qwen2_5_vl": ("qwen2", {}),
}  # fmt: skip

TEXT = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")
HEAD = "language_model.lm_head."
OTHER = re.compile(r"^(?:model\.)?(vision_tower|multi_modal_projector|visual)\.")


def text_entries(entries: Json) -> Json:
    """The config.json of the text half; of another model, its own."""
    model_type = entries.get("model_type")
    if model_type not in WRAPPERS:
        return entries
    family, defaults = WRAPPERS[model_type]
    text = entries.get("text_config") or entries  # older files of qwen2_5_vl have no part of their own for it
    tied = {name: entries[name] for name in ("tie_word_embeddings",) if name in entries}
    return {**defaults, **text, **tied, "model_type": family}


def text_tensors(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], set[str]]:
    """The tensors of the text half by its family's names, and the parts that are left out."""
    text: dict[str, np.ndarray] = {}
    left_out: set[str] = set()
    for name, tensor in tensors.items():
        if other := OTHER.match(name):
            left_out.add(other[1])
        elif name.startswith(HEAD):
            text[name.removeprefix("language_model.")] = tensor
        else:
            text[TEXT.sub("model.", name)] = tensor
    return text, left_out
