"""The table of errors beside float64."""

from pathlib import Path

from click.testing import CliRunner

from benchmarks.accuracy import main
from llm_jax.checkpoint import convert, open_model
from llm_jax.demo import PATH


def test_errors_are_those_of_the_arithmetic_and_grow_with_fewer_bits(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("Once upon a time, there was a little girl who had a dog. " * 4)
    found = {}
    for dtype in ("float32", "q8_0", "q4_0"):
        convert(open_model(PATH), tmp_path / f"{dtype}.gguf", dtype=dtype)
        run = CliRunner().invoke(main, [str(tmp_path / f"{dtype}.gguf"), "--text", str(text)], catch_exceptions=False)
        [line] = [line for line in run.stdout.splitlines() if line.startswith(f"| {dtype} |")]
        name, tokens, mean, _, largest, _ = (field.strip() for field in line.strip("|").split("|")[1:])
        assert (name, int(tokens) > 20) == ("text.md", True)
        found[dtype] = float(mean), float(largest)
    assert found["float32"][1] < 0.05  # auto rounds such weights to bfloat16, as the cache is
    assert found["q8_0"] < found["q4_0"] < (0.1, 1.0)
