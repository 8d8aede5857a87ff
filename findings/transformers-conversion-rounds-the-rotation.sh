#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (seen 2026-11-29, CPU).
#
# from_pretrained(dtype=torch.bfloat16) loads the weights in bfloat16 and leaves the frequencies of the rotary embedding
# in float32. They are a buffer of the module, so that model.to(torch.bfloat16), or .half(), of a model that was made or
# loaded in float32 rounds them too: to eight bits. A rotation is position times frequency, and at position 1000 the
# angles are wrong by up to a radian. Both models have the same weights and dtype, short texts agree, long ones do not.
# Casting back to float32 does not mend it.
#
# Seen, the largest error of a cosine: 0.008 at position 10, 0.9 at 1000, 1.8 at 4000. Give the dtype when loading.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

sizes = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 1}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
model.save_pretrained("model")
exact = model.model.rotary_emb.inv_freq.clone()
loaded = LlamaForCausalLM.from_pretrained("model", dtype=torch.bfloat16)
assert loaded.lm_head.weight.dtype == torch.bfloat16
assert loaded.model.rotary_emb.inv_freq.dtype == torch.float32
converted = model.to(torch.bfloat16)
assert torch.equal(converted.lm_head.weight, loaded.lm_head.weight)
rounded = converted.model.rotary_emb.inv_freq
assert rounded.dtype == torch.bfloat16
assert torch.equal(model.to(torch.float32).model.rotary_emb.inv_freq, rounded.float())
errors = {at: float(((at * exact).cos() - (at * rounded.float()).cos()).abs().max()) for at in (10, 100, 1000, 4000)}
print("largest error of a cosine by position:", {at: round(error, 3) for at, error in errors.items()})
assert errors[10] < 0.02
assert errors[1000] > 0.5
PY
