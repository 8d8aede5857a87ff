"""benchmarks.training: both engines take their turns in processes of their own."""

import json

from click.testing import CliRunner

from benchmarks.training import main


def test_both_engines_train_and_are_compared():
    arguments = ["--model-shape", "tiny", "--cell", "2", "16", "--rounds", "1", "--json"]
    arguments += ["--dtype", "float32", "--engine", "torch"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    figures = json.loads(result.stdout)
    assert figures["cell"]["shape"] == "tiny"
    assert figures["engines"].keys() == {"llm", "torch"}
    for engine in figures["engines"].values():
        assert engine["rate"] > 0
        assert 0 < engine["mfu"] < 1
        assert engine["memory"] > 2**20
    assert figures["parts"]["products"] > 0
