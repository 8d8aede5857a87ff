#!/usr/bin/env bash
# jax 0.10.2, jaxlib 0.10.2 (seen 2026-11-29, CPU).
#
# jax.nn.dot_product_attention(is_causal=True) lets query i see the keys up to i, also where there are more keys than
# queries. In decoding with a cache the queries are the last positions: one new query over eight keys sees the first key
# only, and the result is well-formed and wrong. And a query that may see no key at all, such as one of padding, gets the
# mean of all values, of those too that the mask hides, where other implementations give NaN or 0.
#
# Seen, for the values 0 to 7: 0.0 for a new query, which should be near 3.5, the mean; 3.5 for one that may see nothing.
# With a cache, write the mask out (or pass query and key lengths); set the rows of padding to 0 yourself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp

assert jax.__version__ == "0.10.2", jax.__version__
keys = jnp.ones((1, 8, 1, 4))
values = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], keys.shape)


def attend(queries, **mask):
    """The first component of each query's result; all scores are equal, so it is the mean of the values seen."""
    result = jax.nn.dot_product_attention(jnp.ones((1, queries, 1, 4)), keys, values, **mask)
    return result[0, :, 0, 0].tolist()


newest = attend(1, is_causal=True)
written = attend(1, mask=jnp.ones((1, 1, 1, 8), bool))
blind = attend(1, mask=jnp.zeros((1, 1, 1, 8), bool))
print(f"a new query by is_causal: {newest}, by a mask: {written}; a query that may see nothing: {blind}")
assert attend(8, is_causal=True) == [i / 2 for i in range(8)]
assert newest == [0.0]
assert written == [3.5]
assert blind == [3.5]
PY
