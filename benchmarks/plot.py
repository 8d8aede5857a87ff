"""The plot of a run: tokens/s over the batch size, one panel per weight dtype."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.compare import Row
from benchmarks.engines import PEERS, LlmJax
from llm_jax.atomic import atomic_file

COLOURS = dict(zip((LlmJax.name, *PEERS), ("tab:blue", "tab:orange", "tab:green"), strict=True))


def plot(path: Path, rows: Sequence[Row], context: int) -> None:
    """Plots the decode rows of one context, with the limit of memory bandwidth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    decode = [row for row in rows if row.cell.task == "decode" and row.cell.context == context]
    dtypes = list(dict.fromkeys(row.cell.dtype for row in decode))
    figure, panels = pyplot.subplots(1, len(dtypes), figsize=(4.5 * len(dtypes), 4), sharey=True, squeeze=False)
    for panel, dtype in zip(panels[0], dtypes, strict=True):
        mine = sorted((row for row in decode if row.cell.dtype == dtype), key=lambda row: row.cell.batch)
        batches = [row.cell.batch for row in mine]
        panel.plot(batches, [row.limit for row in mine], color="grey", linestyle="--", label="memory limit")
        for name, colour in COLOURS.items():
            line = [(row.cell.batch, row.rates[name]) for row in mine if name in row.rates]
            if line:
                panel.plot(*zip(*line, strict=True), color=colour, marker="o", label=name)
        panel.set(title=dtype, xlabel="batch", xscale="log", yscale="log", xticks=batches, xticklabels=batches)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    panels[0][0].set_ylabel(f"tokens/s, context {context}")
    figure.tight_layout()
    with atomic_file(path) as new:
        figure.savefig(new, dpi=120)
    pyplot.close(figure)
