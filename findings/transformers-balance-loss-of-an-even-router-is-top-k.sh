#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (seen 2026-11-29, CPU).
#
# The auxiliary loss that keeps a mixture's experts evenly used is E · Σ f_e · P_e, with f_e the share of an expert in
# the choices and P_e its mean probability: 1 for an even router, as in the Switch Transformer, whatever the number of
# experts. transformers adds up the shares of the first, second … k-th choices, which each have a sum of 1, so that an
# even router costs k: with the same router_aux_loss_coef a model of eight experts per token is pushed eight times as
# hard as one that takes a single one, and the figure in a log is not that of another framework, nor of a model with
# another k.
#
# Seen, for 1, 2, 4 and 8 of 64 experts, chosen evenly: 1.0, 2.0, 4.0 and 8.0. Divide the coefficient by k.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" - <<'PY'
import torch
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

torch.manual_seed(0)
logits = (1e-3 * torch.rand(20000, 64),)  # of one layer; nearly equal, so that the choice is even
losses = {k: float(load_balancing_loss_func(logits, 64, k)) for k in (1, 2, 4, 8)}
print("loss by experts per token:", {k: round(loss, 2) for k, loss in losses.items()})
for k, loss in losses.items():
    assert abs(loss / k - 1) < 0.01, losses
PY
