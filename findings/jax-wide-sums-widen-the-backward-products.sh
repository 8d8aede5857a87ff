#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-28, CPU).
#
# Asking a bfloat16 product for float32 sums (`preferred_element_type=jnp.float32`) is the usual way to get exact attention
# scores at bfloat16 speed. Forward that is what happens: one dot of bfloat16 × bfloat16 → float32. But the gradient's
# two products are then dots of float32 × bfloat16, because the incoming gradient has the output's dtype and the transpose
# rule does not round it to the operands'. A backend that has no product of two dtypes widens the bfloat16 side, so that
# the backward pass, two thirds of the work, runs in float32. `(q @ k.T).astype(float32)` does not have this effect: its
# backward products are bfloat16 × bfloat16, but its scores are rounded.
#
# Who wants both writes the gradient out (jax.custom_vjp) and casts the incoming gradient first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

assert jax.__version__ == "0.10.2", jax.__version__
q = k = jnp.ones((4, 8), jnp.bfloat16)


def dots(scores):
    """The operands' dtypes of every dot in the program that computes both gradients."""
    program = jax.make_jaxpr(jax.grad(lambda q, k: scores(q, k).sum(), argnums=(0, 1)))(q, k)
    return [
        tuple(str(v.aval.dtype) for v in equation.invars)
        for equation in program.jaxpr.eqns
        if equation.primitive.name == "dot_general"
    ]


wide = dots(lambda q, k: jnp.einsum("mh,sh->ms", q, k, preferred_element_type=jnp.float32))
rounded = dots(lambda q, k: jnp.einsum("mh,sh->ms", q, k).astype(jnp.float32))
print("float32 sums:    ", wide)
print("bfloat16 scores: ", rounded)
# The first dot of the former is the forward product, the other two are the gradients'.
assert wide == [("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("float32", "bfloat16")], wide
assert {pair for pair in rounded} == {("bfloat16", "bfloat16")}, rounded
PY
