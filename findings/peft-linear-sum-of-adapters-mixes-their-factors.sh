#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0 (seen 2026-11-29, CPU).
#
# add_weighted_adapter(combination_type="linear") does not add up what the adapters change. It adds the two factors
# each: (√w A₁ + √w A₂) and (√w B₁ + √w B₂), whose product has, beside the weighted sum that one asks for, each
# adapter's B with the other's A: noise as large as the sum, as the adapters have nothing in common. "svd", the default,
# cuts the sum to the rank of one adapter. Only "cat" is the sum, of twice the rank.
#
# Seen, the distance to half of each adapter's change, relative to it: 1 for linear, 0.5 for svd, 0 for cat.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check peft==0.21.2 transformers==5.23.0 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
config = LoraConfig(r=4, target_modules=["q_proj"])
model = get_peft_model(base, config, "first")
model.add_adapter("second", config)
linear = model.model.model.layers[0].self_attn.q_proj
with torch.no_grad():
    for name in ("first", "second"):
        linear.lora_B[name].weight.normal_()
    asked = (linear.get_delta_weight("first") + linear.get_delta_weight("second")) / 2
    found = {}
    for kind in ("linear", "svd", "cat"):
        model.add_weighted_adapter(["first", "second"], [0.5, 0.5], kind, combination_type=kind)
        found[kind] = float((linear.get_delta_weight(kind) - asked).norm() / asked.norm())
print("distance to the sum:", {kind: round(distance, 3) for kind, distance in found.items()})
assert 0.8 < found["linear"] < 1.25, found
assert 0.3 < found["svd"] < 0.8, found
assert found["cat"] < 1e-5, found
PY
