"""What narrower weights cost in quality: perplexity of the demo model on text that it has never seen."""

from functools import lru_cache
from pathlib import Path

import pytest

from llm_jax import demo
from llm_jax.checkpoint import load_model
from llm_jax.evaluation import evaluate_text
from llm_jax.kernels import WeightDtype

TEXT = Path("data/dummy_corpus.txt")  # another seed than the demo model's own corpus


@lru_cache
def perplexity(dtype: WeightDtype) -> float:
    loaded = load_model(demo.PATH)
    assert loaded.tokenizer is not None
    return evaluate_text(loaded.model, loaded.tokenizer, TEXT.read_text("utf-8")[:60_000], dtype=dtype).perplexity


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.005), ("int8", 0.01)])
def test_perplexity_stays_near_that_of_float32(dtype: WeightDtype, bound: float) -> None:
    assert perplexity(dtype) == pytest.approx(perplexity("float32"), rel=bound)
