"""The loss curves of a run as an image."""

from pathlib import Path
from typing import Any

from llm_jax.atomic import atomic_file


def draw_losses(records: list[dict[str, Any]], path: Path) -> None:
    """Training loss by step, validation loss by epoch, and the task's baseline as a dashed line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    steps = [r for r in records if r["event"] == "step"]
    validated = [r for r in records if r["event"] == "epoch" and r["validation_loss"] is not None]
    run = next((r for r in records if r["event"] == "run"), None)
    axes.plot([r["step"] for r in steps], [r["loss"] for r in steps], "C0", alpha=0.7, linewidth=1, label="training")
    if validated:
        axes.plot([r["step"] for r in validated], [r["validation_loss"] for r in validated], "C1.-", label="validation")
    if run:
        axes.axhline(run["baseline"], linestyle="--", color="grey", label=run["baseline_name"])
        axes.set_ylabel("nats per token" if run["unit"] == "tokens" else "mean squared error")
    axes.set_xlabel("optimiser step")
    axes.set_ylim(bottom=0)
    axes.legend()
    with atomic_file(path) as new:
        figure.savefig(new, format="png", dpi=120)
