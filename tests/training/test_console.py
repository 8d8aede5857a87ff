"""A terminal gets a progress bar, a pipe gets lines."""

import io

import pytest
from rich.console import Console

from llm_jax.training.console import RunConsole

RUN = {
    "event": "run",
    "start": 0,
    "steps": 20,
    "epochs": 2,
    "steps_per_epoch": 10,
    "examples": 1234,
    "held_out": 56,
    "unit": "tokens",
    "parameters": 7890,
    "trainable": 7890,
    "dtype": "float32",
    "device": "cpu",
    "baseline_name": "entropy",
    "baseline": 3.2,
}
STEP = {"event": "step", "step": 10, "epoch": 1, "loss": 2.3456, "lr": 1e-3, "grad_norm": 0.5, "per_second": 4321.0}
EPOCH = {"event": "epoch", "step": 10, "epoch": 1, "train_loss": 2.5, "validation_loss": 0.0}


def shown(*records, terminal, log_level="INFO"):
    screen = io.StringIO()
    console = RunConsole(log_level, Console(file=screen, force_terminal=terminal, width=100, color_system=None))
    for record in records:
        console.write(record)
    console.close()
    return screen.getvalue()


def test_a_terminal_shows_a_bar_with_loss_speed_and_time_left():
    text = shown(RUN, STEP, EPOCH, terminal=True)
    assert "epoch 1/2" in text
    assert "50 %  loss 2.3456  4,321 tokens/s  left" in text
    assert "step 10" not in text


@pytest.mark.parametrize("norm", [0.5, None])
def test_a_pipe_gets_plain_lines(norm):
    text = shown(RUN, {**STEP, "grad_norm": norm}, EPOCH, terminal=False)
    assert "7,890 parameters, 1,234 training and 56 held-out" in text
    assert "epoch 1/2  step 10  loss 2.3456" in text
    assert "validation loss 0.0000  perplexity 1.00" in text
    assert "\x1b" not in text


def test_the_share_of_the_peak_rate_and_memory_are_shown():
    text = shown(RUN, {**STEP, "mfu": 0.314, "peak_memory": 1.5e9}, terminal=False)
    assert "4,321 tokens/s  MFU 31%  1.5 GB" in text


def test_the_log_level_quiets_it():
    assert shown(RUN, STEP, EPOCH, terminal=True, log_level="WARNING") == ""
