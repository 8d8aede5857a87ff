"""benchmarks.training: both engines take their turns in processes of their own."""

import json

import jax
from click.testing import CliRunner

from benchmarks.step_profile import INSTRUCTION, parts_of_text
from benchmarks.training import main
from benchmarks.training_workers import Cell, jax_step


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


def test_no_product_of_a_step_counts_as_the_rest():
    step = jax_step(Cell("tiny", 2, 16))
    step()  # compiled, and live as long as `step` is
    modules = [module for program in jax.devices()[0].client.live_executables() for module in program.hlo_modules()]
    [text] = [module.to_string() for module in modules if module.name == "jit_train_step"]
    parts = parts_of_text(text)
    products = [parts[name] for name, opcode, _ in INSTRUCTION.findall(text) if opcode == "dot"]
    assert products.count("products") >= len(products) / 2 > 0
    assert set(products) <= {"products", "attention", "loss"}
