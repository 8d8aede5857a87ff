"""The examples in docstrings run, and the names that people meet first have one."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = "llm_jax", "llm_torch_compat"
FIRST_MET = {
    "llm_jax.checkpoint": ["load_model", "save_model"],
    "llm_jax.config": ["ModelConfig"],
    "llm_jax.evaluation": ["evaluate_text"],
    "llm_jax.inference": ["Engine", "SamplingParams", "generate", "stream_generate"],
    "llm_jax.model": ["Model", "forward"],
    "llm_jax.tokenizers": ["BPETokenizer", "CharacterTokenizer", "HFTokenizer"],
    "llm_jax.training": ["train"],
    "llm_torch_compat": ["DecoderModel"],
}


def modules_with_examples() -> list[str]:
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what an example writes stays here
    failed, attempted = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert attempted > 0
    assert failed == 0


@pytest.mark.parametrize(("package", "names"), FIRST_MET.items(), ids=str)
def test_names_that_people_meet_first_have_an_example(package: str, names: list[str]) -> None:
    module = importlib.import_module(package)
    assert [name for name in names if ">>> " not in (getattr(module, name).__doc__ or "")] == []
