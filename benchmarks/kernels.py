"""What the kernels reach: GB/s and GFLOP/s of each product, and the rate of a whole decode step.

    python -m benchmarks.kernels [products] [step] [quick]

Weights are random, of the shape "llama-160m": 12 layers, 768 wide, 12 heads, feed-forward 2048 gated, vocabulary
50257, untied head, rotary, RMS norm. Times are the best of several; the read bandwidth is measured first, over a
512 MB buffer, so that "share" is the share of what this machine gives right now. `quick` runs the best level only.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.limits import BYTES
from benchmarks.machine import Memory, best
from llm_jax.kernels import (
    KINDS,
    Level,
    Norm,
    PackedMatrix,
    cached_attention,
    features,
    matmul,
    pack,
    pack_gated,
    use_huge_pages,
)

L, D, N, H, F, V = 12, 768, 12, 64, 2048, 50257
PRODUCTS = {"q, k, v": (3 * D, D), "out": (D, D), "gate, up": (2 * F, D), "down": (D, F), "head": (V, D)}


def products(rows: tuple[int, ...] = (1, 4, 16, 128, 512)) -> None:
    """One layer's products and the head, each level beside torch: GB/s of weights up to 16 rows, then GFLOP/s."""
    import torch

    torch.set_num_threads(2)
    print(f"\n{'product':10} {'kind':9} {'rows':>5}", *(f"{level.name:>8}" for level in features()), f"{'torch':>8}")
    for name, (out, size) in PRODUCTS.items():
        weight = jax.random.normal(jax.random.key(0), (out, size)) * 0.02
        for kind in KINDS:
            packed = {level: pack(weight, kind, level=level) for level in features()}
            for M in rows:
                x = jax.random.normal(jax.random.key(1), (M, size))
                nbytes = out * size * BYTES[kind]
                work = (nbytes if M <= 16 else 2 * M * out * size) / 1e9
                run = jax.jit(matmul)
                figures = [work / best(run, x, p) for p in packed.values()]
                if kind != "int8":
                    dtype = getattr(torch, kind)
                    tx, tw = torch.randn(M, size, dtype=dtype), torch.randn(out, size, dtype=dtype)
                    figures.append(work / best(torch.nn.functional.linear, tx, tw))
                unit = "GB/s" if M <= 16 else "GFLOP/s"
                print(f"{name:10} {kind:9} {M:5}", *(f"{f:8.1f}" for f in figures), unit, flush=True)


def random_model(kind: str, level: Level) -> dict[str, PackedMatrix]:
    def matrix(i: int, out: int, size: int) -> jax.Array:
        return jax.random.normal(jax.random.key(i), (out, size)) * 0.02

    params = {"head": pack(matrix(0, V, D), kind, level=level)}
    for i in range(L):
        params[f"{i}.qkv"] = pack(matrix(4 * i + 1, 3 * D, D), kind, level=level)
        params[f"{i}.out"] = pack(matrix(4 * i + 2, D, D), kind, level=level)
        params[f"{i}.up"] = pack_gated(matrix(4 * i + 3, F, D), matrix(4 * i + 4, F, D), kind, level=level)
        params[f"{i}.down"] = pack(matrix(4 * i + 5, D, F), kind, level=level)
    return params


@partial(jax.jit, static_argnames=("level", "context"), donate_argnames=("caches", "lengths_B"))
def decode_step(params, table_VD, caches, tokens_B, lengths_B, *, level, context):
    """Feeds every row its last token and chooses the likeliest next."""
    x = table_VD[tokens_B]
    B = x.shape[0]
    norm = Norm(jnp.ones(D))
    angle = lengths_B[:, None, None] * 10000.0 ** (-jnp.arange(0, H, 2, dtype=jnp.float32) / H)
    rotary = jnp.cos(angle), jnp.sin(angle)
    live_B = jnp.ones(B, jnp.int32)
    kept = []
    for i, (keys, values) in enumerate(caches):
        qkv = matmul(x, params[f"{i}.qkv"], norm=norm).reshape(B, 1, 3 * N, H)
        out, keys, values = cached_attention(
            qkv, keys, values, lengths_B, live_B, scale=H**-0.5, rotary=rotary, context=context, level=level
        )
        kept.append((keys, values))
        x = matmul(out.reshape(B, D), params[f"{i}.out"], residual=x)
        hidden = matmul(x, params[f"{i}.up"], norm=norm, activation="silu")
        x = matmul(hidden, params[f"{i}.down"], residual=x)
    logits = matmul(x, params["head"], norm=norm, out_dtype=jnp.float32)
    is_best = logits == logits.max(-1, keepdims=True)
    tokens_B = jnp.where(is_best, jnp.arange(V, dtype=jnp.int32), V - 1).min(-1)
    return kept, tokens_B.astype(jnp.int32), lengths_B + 1


def step(batches: tuple[int, ...] = (1, 2, 4, 8, 16), contexts: tuple[int, ...] = (32, 1024)) -> None:
    """The whole decode step: tokens/s over the batch, and the share of the time that its reads need."""
    bandwidth = Memory().bandwidth()
    print(f"\nread bandwidth {bandwidth / 1e9:.1f} GB/s")
    print(f"{'kind':9} {'level':7} {'context':>7} {'batch':>5} {'tokens/s':>9} {'steps/s':>8} {'share of limit':>14}")
    for kind in KINDS:
        for level in [features()[-1]] if "quick" in sys.argv else features():
            params = random_model(kind, level)
            dtype = jnp.float32 if kind == "float32" else jnp.bfloat16
            table_VD = jax.random.normal(jax.random.key(9), (V, D), dtype)
            weights = sum(p.nbytes for p in params.values())
            for context in contexts:
                for B in batches:
                    if context > 32 and B != 8:
                        continue
                    caches = [tuple(jnp.zeros((B, N, 2 * context + 64, H), dtype) for _ in "kv") for _ in range(L)]
                    for kept in jax.tree.leaves(caches):
                        use_huge_pages(kept)
                    state = [caches, jnp.zeros(B, jnp.int32)]
                    lengths = np.full(B, context, np.int32)

                    def run(params=params, table_VD=table_VD, state=state, lengths=lengths, level=level):
                        bound = int(2 ** np.ceil(np.log2(lengths[0] + 1)))
                        state[0], state[1], _ = decode_step(
                            params, table_VD, *state, jnp.asarray(lengths), level=level, context=bound
                        )
                        return state[1]

                    seconds = best(run)
                    cache = B * context * sum(k.nbytes + v.nbytes for k, v in state[0]) // (B * (2 * context + 64))
                    share = (weights + cache) / seconds / bandwidth
                    rates = f"{B / seconds:9.0f} {1 / seconds:8.1f} {share:13.0%}"
                    print(f"{kind:9} {level.name:7} {context:7} {B:5} {rates}", flush=True)


if __name__ == "__main__":
    wanted = [name for name in sys.argv[1:] if name in ("products", "step")] or ["products", "step"]
    for name in wanted:
        {"products": products, "step": step}[name]()
