"""The core stands without torch, and its walls are where docs/architecture.md says (`make lint` holds the arrows)."""

import subprocess
import sys

import pytest

FORBID = """
import importlib.abc, sys

class Forbid(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {forbidden}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Forbid())
"""


def run_without(forbidden: set[str], program: str) -> None:
    """Runs a program in a fresh interpreter in which these packages cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", FORBID.format(forbidden=forbidden) + program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_model_and_inference_need_jax_flax_numpy_and_safetensors_alone() -> None:
    # What Flax itself brings (optax, orbax, rich, yaml …) cannot be told from what we import.
    everything_else = {"torch", "transformers", "tokenizers", "jinja2", "click", "starlette", "pydantic", "matplotlib"}
    run_without(everything_else, "import llm_jax.model, llm_jax.inference")


@pytest.mark.parametrize("room", ["tokenizers", "checkpoint", "data", "training"])
def test_the_core_needs_no_torch(room: str) -> None:
    run_without({"torch", "click", "starlette"}, f"import llm_jax.{room}")


def test_a_model_is_loaded_and_used_without_torch() -> None:
    run_without(
        {"torch", "click", "starlette"},
        """
from llm_jax.checkpoint import load_model
from llm_jax.demo import PATH
from llm_jax.inference import generate
loaded = load_model(PATH)
text = generate(loaded.model, loaded.tokenizer, "Once upon a time", max_new_tokens=4, temperature=0)
assert text.startswith("Once upon a time") and len(text) > len("Once upon a time"), text
""",
    )


def test_a_configuration_mistake_is_reported_before_jax_is_imported() -> None:
    run_without(
        {"jax", "torch"},
        """
from llm_jax.errors import ConfigError
from llm_jax.training import Setting, load_train_config
try:
    load_train_config(environ={}, overrides=[Setting.parse("training.epohcs=3", "--set")])
except ConfigError as error:
    assert "training.epochs" in str(error), error
else:
    raise AssertionError("accepted")
""",
    )
