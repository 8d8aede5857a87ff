"""Adapters that peft makes, beside models of transformers: the reference for those that serve here."""

from pathlib import Path
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel


def make_adapter(base: Path, folder: Path, seed: int, **settings: Any) -> PreTrainedModel:
    """The adapted model, in which every factor is random; its adapter is saved in `folder`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "init_lora_weights": False, "task_type": "CAUSAL_LM"} | settings
    )
    adapted = peft.get_peft_model(model, config).eval()
    adapted.save_pretrained(folder)
    return adapted


def greedy(model: PreTrainedModel, prompt: tuple[int, ...], new: int) -> list[int]:
    """The likeliest continuation of a prompt."""
    with torch.no_grad():
        ids = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=new, do_sample=False
        )
    return [int(token) for token in ids[0, len(prompt) :]]
