"""Throughput of the matrix products at each instruction level: `python -m benchmarks.kernels`.

Matrices are those of the shape "llama-160m", random; times are the best of several.
"""

import jax

from benchmarks.limits import BYTES
from benchmarks.machine import best
from llm_jax.kernels import WEIGHT_DTYPES, features, matmul, pack

D, F, V = 768, 2048, 50257
PRODUCTS = {"q, k, v": (3 * D, D), "out": (D, D), "gate, up": (2 * F, D), "down": (D, F), "head": (V, D)}


def products(rows: tuple[int, ...] = (1, 4, 16, 128, 512)) -> None:
    """One layer's products and the head, each level beside torch: GB/s of weights up to 16 rows, then GFLOP/s."""
    import torch

    torch.set_num_threads(2)
    print(f"\n{'product':10} {'dtype':9} {'rows':>5}", *(f"{level.name:>8}" for level in features()), f"{'torch':>8}")
    for name, (out, size) in PRODUCTS.items():
        weight = jax.random.normal(jax.random.key(0), (out, size)) * 0.02
        for dtype in WEIGHT_DTYPES:
            packed = {level: pack(weight, dtype, level=level) for level in features()}
            for M in rows:
                x = jax.random.normal(jax.random.key(1), (M, size))
                nbytes = out * size * BYTES[dtype]
                work = (nbytes if M <= 16 else 2 * M * out * size) / 1e9
                run = jax.jit(matmul)
                figures = [work / best(run, x, p) for p in packed.values()]
                if dtype != "int8":
                    torch_dtype = getattr(torch, dtype)
                    tx, tw = torch.randn(M, size, dtype=torch_dtype), torch.randn(out, size, dtype=torch_dtype)
                    figures.append(work / best(torch.nn.functional.linear, tx, tw))
                unit = "GB/s" if M <= 16 else "GFLOP/s"
                print(f"{name:10} {dtype:9} {M:5}", *(f"{f:8.1f}" for f in figures), unit, flush=True)


if __name__ == "__main__":
    products()
