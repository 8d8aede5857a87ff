"""Muon: momentum whose updates are orthogonal matrices (Jordan 2024; arXiv:2502.16982).

Weights are [out, in]. What a network has fused into one matrix is orthogonalised in its parts: queries, keys and values
are maps of their own. Embeddings, heads, vectors and the factors of adapters are no such maps and go to AdamW.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from llm_jax.model import Params

COEFFICIENTS, ITERATIONS, EPSILON = (3.4445, -4.7750, 2.0315), 5, 1e-7  # a quintic with a steep slope at 0
HIDDEN = "transformer_blocks."


class MuonState(NamedTuple):
    momentum: Params


def is_hidden_matrix(name: str, value: Array) -> bool:
    """Whether a parameter is a map between hidden states, which Muon trains; for experts, a stack of these."""
    return name.startswith(HIDDEN) and name.endswith(".weight") and value.ndim >= 2 and "router" not in name


def scale_by_muon(
    momentum: float, fused: Mapping[str, tuple[int, ...]], moment_dtype: str = "float32"
) -> optax.GradientTransformation:
    """Updates for a learning rate of AdamW's size: their root mean square is 0.2 (arXiv:2502.16982, section 2.2).

    Args:
        fused: rows of the parts of fused matrices, by name.
        moment_dtype: what the momentum is stored in.
    """

    def init(params: Params) -> MuonState:
        return MuonState(jax.tree.map(lambda x: jnp.zeros_like(x, moment_dtype), params))

    def update(grads: Params, state: MuonState, params: Params | None = None) -> tuple[Params, MuonState]:
        before = jax.tree.map(lambda m, g: m.astype(g.dtype), state.momentum, grads)
        averaged = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, before, grads)
        ahead = jax.tree.map(lambda m, g: momentum * m + (1 - momentum) * g, averaged, grads)  # Nesterov's
        stored = jax.tree.map(lambda m: m.astype(moment_dtype), averaged)
        return _orthogonalised(ahead, fused), MuonState(stored)

    return optax.GradientTransformation(init, update)


def _orthogonalised(matrices: Params, fused: Mapping[str, tuple[int, ...]]) -> Params:
    """Each matrix, or part of a fused one, made orthogonal and scaled; equal shapes are computed together."""
    parts: dict[tuple[str, int], Array] = {}
    own = {name: matrix for name, matrix in matrices.items() if not isinstance(matrix, optax.MaskedNode)}
    for name, matrix in own.items():
        borders = list(accumulate(fused.get(name, (matrix.shape[-2],))))[:-1]
        parts |= {(name, i): part for i, part in enumerate(jnp.split(matrix, borders, axis=-2))}
    done: dict[tuple[str, int], Array] = {}
    for shape in {part.shape for part in parts.values()}:
        keys = [key for key, part in parts.items() if part.shape == shape]
        scale = 0.2 * max(shape[-2:]) ** 0.5
        orthogonal = _newton_schulz(jnp.stack([parts[key] for key in keys]))
        done |= {key: scale * orthogonal[i] for i, key in enumerate(keys)}
    return matrices | {name: jnp.concatenate(_in_order(done, name), axis=-2) for name in own}


def _in_order(parts: Mapping[tuple[str, int], Array], name: str) -> list[Array]:
    return [parts[key] for key in sorted(parts) if key[0] == name]


def _newton_schulz(x: Array) -> Array:
    """About U Vᵀ of each matrix U S Vᵀ in [..., out, in], its singular values between 0.7 and 1.2."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=(-2, -1), keepdims=True), EPSILON)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
