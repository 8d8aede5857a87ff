"""Throughput of the matrix products at each instruction level: `python -m benchmarks.kernels`.

Matrices are those of the shape "llama-160m", random; times are the best of several.
"""

from typing import TYPE_CHECKING, get_args

import click

from cli._errors import Command
from llm_jax.kernels import Level, WeightDtype

if TYPE_CHECKING:
    from collections.abc import Sequence

D, F, V = 768, 2048, 50257
PRODUCTS = {"qkv": (3 * D, D), "out": (D, D), "gate_up": (2 * F, D), "down": (D, F), "head": (V, D)}
ROWS = (1, 4, 16, 128, 512)
FEW = 16  # rows up to which weights are counted, not operations


@click.command(cls=Command)
@click.option("--level", "levels", multiple=True, type=click.Choice([level.name.lower() for level in Level]))
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(get_args(WeightDtype)))
@click.option("--rows", multiple=True, type=click.IntRange(min=1), default=ROWS, show_default=True)
@click.option("--product", "names", multiple=True, type=click.Choice(list(PRODUCTS)))
@click.option("--torch/--no-torch", "with_torch", default=True, help="Beside torch's products.")
def main(
    levels: tuple[str, ...],
    dtypes: tuple[WeightDtype, ...],
    rows: tuple[int, ...],
    names: tuple[str, ...],
    with_torch: bool,
) -> None:
    """Print one layer's products and the head at each level: GB/s of weights up to 16 rows, then GFLOP/s."""
    from llm_jax.kernels import features

    wanted = [level for level in features() if not levels or level.name.lower() in levels]
    columns = [level.name.lower() for level in wanted] + ["torch"] * with_torch
    click.echo(f"{'product':10} {'dtype':9} {'rows':>5} " + " ".join(f"{name:>11}" for name in columns))
    for name in names or PRODUCTS:
        for dtype in dtypes or get_args(WeightDtype):
            for M, figures in measure(PRODUCTS[name], dtype, rows, wanted, with_torch):
                unit = "GB/s" if M <= FEW else "GFLOP/s"
                click.echo(f"{name:10} {dtype:9} {M:5} " + " ".join(f"{f:11.1f}" for f in figures) + f" {unit}")


def measure(
    shape: tuple[int, int], dtype: WeightDtype, rows: "Sequence[int]", levels: "Sequence[Level]", with_torch: bool
) -> "Sequence[tuple[int, list[float]]]":
    """For each number of rows, the figure of each level, and of torch where it has such a product."""
    import jax

    from benchmarks.limits import BYTES
    from benchmarks.machine import best
    from llm_jax.kernels import matmul, pack

    O, I = shape
    weight = jax.random.normal(jax.random.key(0), (O, I)) * 0.02
    packed = [pack(weight, dtype, level=level) for level in levels]
    run = jax.jit(matmul)
    table = []
    for M in rows:
        x = jax.random.normal(jax.random.key(1), (M, I))
        work = (O * I * BYTES[dtype] if M <= FEW else 2 * M * O * I) / 1e9
        figures = [work / best(run, x, matrix) for matrix in packed]
        if with_torch and dtype != "int8":
            import torch

            torch.set_num_threads(2)
            torch_dtype = getattr(torch, dtype)
            tx, tw = torch.randn(M, I, dtype=torch_dtype), torch.randn(O, I, dtype=torch_dtype)
            figures.append(work / best(torch.nn.functional.linear, tx, tw))
        table.append((M, figures))
    return table


if __name__ == "__main__":
    main()
