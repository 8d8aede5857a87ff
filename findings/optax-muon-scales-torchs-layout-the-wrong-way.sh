#!/usr/bin/env bash
# optax 0.2.8, jax 0.10.2, jaxlib 0.10.2, torch 2.13.0 (seen 2026-11-29, CPU).
#
# Muon multiplies its orthogonal update by sqrt(max(1, outputs / inputs)). optax takes the last axis for the outputs, as
# in flax's kernels; torch.optim.Muon the first, as in nn.Linear. A matrix in torch's layout, as checkpoints hold it and
# as many ports to JAX keep it, is updated in the right direction and with the wrong length, nothing fails: one of four
# times as many outputs as inputs moves half as far as it should, one of four times as many inputs twice as far. In a
# transformer these are just the two matrices of a feed-forward.
#
# Seen, the update's length in optax to that in torch: 0.49 for [256, 64], 2.0 for [64, 256]. Give
# muon_weight_dimension_numbers with reduction_axis=1 and output_axis=0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 torch==2.13.0
cd "$folder"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from optax.contrib import MuonDimensionNumbers

assert (optax.__version__, jax.__version__) == ("0.2.8", "0.10.2"), (optax.__version__, jax.__version__)


def optaxs(gradient, **options):
    optimizer = optax.contrib.muon(1.0, **options)
    weights = {"w": jnp.zeros(gradient.shape)}
    updates, _ = optimizer.update({"w": jnp.asarray(gradient)}, optimizer.init(weights), weights)
    return np.asarray(updates["w"])


def torchs(gradient):
    weight = torch.nn.Parameter(torch.zeros(gradient.shape))
    weight.grad = torch.tensor(gradient)
    torch.optim.Muon([weight], lr=1.0, weight_decay=0.0).step()
    return weight.detach().numpy()


norm = np.linalg.norm
for shape, expected in (((256, 64), 0.5), ((64, 256), 2.0)):
    gradient = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    right, usual = torchs(gradient), optaxs(gradient)
    layout = {"w": MuonDimensionNumbers(reduction_axis=1, output_axis=0)}
    told = optaxs(gradient, muon_weight_dimension_numbers=layout)
    direction = (usual * right).sum() / norm(usual) / norm(right)
    lengths = norm(usual) / norm(right), norm(told) / norm(right)
    print(f"{shape}: length {lengths[0]:.2f} of torch's, told the layout {lengths[1]:.2f}, cosine {direction:.4f}")
    assert direction > 0.999
    assert abs(lengths[0] / expected - 1) < 0.05
    assert abs(lengths[1] - 1) < 0.05
PY
