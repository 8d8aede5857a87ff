#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (seen 2026-11-29, CPU).
#
# Several documents in one row, with position_ids that start again at 0: attention keeps them apart by the restarts, as
# one reads in the code of the masks. It does so only where there is no cache and no attention_mask. But use_cache is
# True by default, in train() too, and the mask of ones that every collator adds counts as a mask. In both cases each
# document sees all before it, with positions that are theirs too; the loss falls as usual. Gradient checkpointing,
# which turns the cache off, changes what is learnt.
#
# Seen, the largest difference to the document alone: 0.15 as it is, 0.15 with a mask of ones, below 1e-6 with
# use_cache=False and no mask. Pass those two, or a mask of four axes.
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
model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2)).train()
first, second = torch.randint(1, 64, (1, 5)), torch.randint(1, 64, (1, 6))
row = torch.cat([first, second], 1)
positions = torch.cat([torch.arange(5), torch.arange(6)])[None]


@torch.no_grad()
def difference(**options):
    """Between the logits of the second document in the row and alone."""
    packed = model(row, position_ids=positions, **options).logits[:, 5:]
    return float((packed - model(second).logits).abs().max())


ones = torch.ones_like(row)
found = {
    "as it is": difference(),
    "mask of ones": difference(attention_mask=ones),
    "no cache": difference(use_cache=False),
    "no cache, mask of ones": difference(use_cache=False, attention_mask=ones),
}
for name, value in found.items():
    print(f"{name}: {value:.2g}")
assert found.pop("no cache") < 1e-6
assert min(found.values()) > 0.01, found
PY
