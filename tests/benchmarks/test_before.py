"""One build beside another, each in a process with the modules of its own checkout."""

import re
import shutil
from pathlib import Path

from click.testing import CliRunner

from benchmarks.before import main

ROOT = Path(__file__).parents[2]
MODEL = ["--model-shape", "tiny", "--dtype", "float32"]
SMALL = [*MODEL, "--batch", "2", "--prefill", "0", "--starts", "2", "--rounds", "3", "--steps", "4"]


def test_both_checkouts_run_their_own_code(tmp_path: Path) -> None:
    """The engine of the other checkout reports a made-up rate: that is what stands for it."""
    for package in ("benchmarks", "llm_jax", "cli"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "results"))
    engine = tmp_path / "benchmarks" / "engines" / "llm_jax.py"
    text = engine.read_text(encoding="utf-8")
    assert "(sum(map(len, made)) - before) / seconds" in text
    engine.write_text(text.replace("(sum(map(len, made)) - before) / seconds", "0.5"), encoding="utf-8")
    result = CliRunner().invoke(main, [str(tmp_path), *SMALL])
    assert result.exit_code == 0, result.output
    [line] = result.output.splitlines()
    found = re.fullmatch(r"float32 decode 2 x 32: 0 -> (\S+) tokens/s, (\S+) x, median of 6 pairs \S+ x", line)
    assert found
    now, ratio = (float(figure.replace(",", "")) for figure in found.groups())
    assert abs(ratio * 0.5 - now) <= 0.51  # printed without decimals


def test_a_directory_without_an_engine_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "engines.py").write_text("raise SystemExit(3)")
    (tmp_path / "benchmarks" / "__init__.py").touch()
    result = CliRunner().invoke(main, [str(tmp_path), *SMALL])
    assert result.exit_code == 2
    assert "ended with 3" in result.output
