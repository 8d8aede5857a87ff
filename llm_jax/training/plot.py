"""The loss curves of a run as an image."""

from pathlib import Path
from typing import Any

from llm_jax.atomic import atomic_file

LOSSES = {"tokens": "nats per token", "samples": "mean squared error"}  # by unit


def draw_losses(records: list[dict[str, Any]], path: Path) -> None:
    """Training and validation loss by step, the learning rate, and the task's baseline as a dashed line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [r for r in records if r["event"] == "step" and r["loss"] is not None]
    validated = [r for r in records if r["event"] == "epoch" and r["validation_loss"] is not None]
    run = next((r for r in records if r["event"] == "run"), None)
    axes.plot([r["step"] for r in steps], [r["loss"] for r in steps], "C0", alpha=0.7, linewidth=1, label="training")
    if validated:
        axes.plot([r["step"] for r in validated], [r["validation_loss"] for r in validated], "C1.-", label="validation")
    if run:
        axes.axhline(run["baseline"], linestyle="--", color="grey", label=run["baseline_name"])
        axes.set_ylabel(LOSSES.get(run["unit"], "loss"))
    rates = axes.twinx()
    rates.plot(
        [r["step"] for r in steps], [r["lr"] for r in steps], "C2", alpha=0.4, linewidth=1, label="learning rate"
    )
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylim(bottom=0)
    axes.legend(handles=[*axes.get_lines(), *rates.get_lines()])
    with atomic_file(path) as new:
        figure.savefig(new, format="png", dpi=120)
