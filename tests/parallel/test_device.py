"""One function chooses the device, names what it got, and says what to do where there is none."""

import subprocess
import sys

import jax
import pytest


def use_device(name: str) -> subprocess.CompletedProcess[str]:
    program = f"from llm_jax.parallel import use_device; print(use_device({name!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)


def test_the_kind_of_the_chosen_device_is_returned() -> None:
    assert use_device("cpu").stdout == "cpu\n"


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="this machine has a GPU that JAX can use")
@pytest.mark.parametrize("name", ["cuda", "gpu"])
def test_a_missing_device_is_an_error_that_says_what_to_do(name: str) -> None:
    error = use_device(name).stderr
    for part in (f"device is {name!r}", "no cuda device", "jax[cuda13]", "--device cpu", "LLM_SERVING_DEVICE=cpu"):
        assert part in error
