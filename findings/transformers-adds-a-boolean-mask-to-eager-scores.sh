#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (seen 2026-11-29, CPU).
#
# An attention_mask with four axes, [batch, 1, queries, keys], is passed through to attention as it is. With
# attn_implementation="sdpa" a boolean one says who sees whom. With "eager" it is added to the scores: True counts as 1,
# False as 0, nothing is masked and every token sees the future. A float mask of ones and zeros is added by both. Eager
# is what one turns to for attention weights, for an older GPU, or to check the other one, and there is no error.
#
# Seen, the largest difference to the causal model: 0 with sdpa, 0.15 with eager. Pass 0 and torch.finfo(dtype).min.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).eval()
ids = torch.randint(1, 64, (1, 6))
causal = torch.ones(6, 6, dtype=torch.bool).tril()[None, None]
added = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)


@torch.no_grad()
def difference(kind, mask):
    model.set_attn_implementation(kind)
    return float((model(ids, attention_mask=mask).logits - model(ids).logits).abs().max())


found = {(kind, str(mask.dtype)): difference(kind, mask) for kind in ("sdpa", "eager") for mask in (causal, added)}
for (kind, dtype), value in found.items():
    print(f"{kind}, {dtype}: {value:.2g}")
assert found.pop(("eager", "torch.bool")) > 0.01
assert max(found.values()) < 1e-6, found
PY
