"""k micro-batches with different amounts of padding make the step that one large batch makes, for every task."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.checkpoint import StoredModel
from llm_jax.checkpoint.generation import GenerationDefaults
from llm_jax.config import LoraConfig, ModelConfig
from llm_jax.model import init_params
from llm_jax.training import DistillationConfig, PreferenceConfig, TrainingConfig, initial_state, make_train_step
from llm_jax.training.tasks import DistillationTask, LanguageModelTask, PreferenceTask, RegressionTask, SupervisedTask
from llm_jax.training.tasks.preference_task import REFERENCE
from llm_jax.training.tasks.regression import MLP
from llm_jax.training.tasks.start import Start

TINY = ModelConfig(vocab_size=29, hidden_size=16, num_layers=1, num_heads=2, max_seq_len=16, dropout=0.0)
B, T = 8, 12
FLOAT32 = jnp.dtype("float32")


def decoder_task(kind: Any, **more: Any) -> Any:
    start = Start(
        config=TINY, tokenizer=None, stored=None, lora=LoraConfig(), adapter=None, frozen=frozenset(), base=None
    )
    return kind(start=start, train=[], validation=None, floor=("", 0.0), **more)


def rows(count: int) -> dict[str, np.ndarray]:
    """Rows of 1 to T tokens; the last one is padding alone, as at the end of an epoch."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, TINY.vocab_size, (count, T + 1)).astype(np.int32)
    lengths = np.where(np.arange(count) == count - 1, 0, random.integers(1, T + 1, count))
    weights = (np.arange(T) < lengths[:, None]).astype(np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}


def pairs() -> dict[str, np.ndarray]:
    """[B, 2, T], the last one padding."""
    found = {name: value.reshape(B, 2, T) for name, value in rows(2 * B).items()}
    found["weights"][:-1, :, 0] = 1.0  # an answer has a token
    found["weights"][-1] = 0.0
    return found


def samples() -> dict[str, np.ndarray]:
    x = np.random.default_rng(0).standard_normal((B, 1)).astype(np.float32)
    return {"inputs": x, "targets": x, "weights": np.array([1.0] * (B - 1) + [0.0], np.float32)}


TEACHER = StoredModel("", TINY, {}, None, GenerationDefaults())
REGULARISED = {"settings": TrainingConfig(z_loss=1e-2)}
CASES = {
    "lm": lambda: (decoder_task(LanguageModelTask, **REGULARISED), rows(B), None),
    "sft": lambda: (decoder_task(SupervisedTask, **REGULARISED), rows(B), None),
    "dpo": lambda: (decoder_task(PreferenceTask), pairs(), REFERENCE),
    "orpo": lambda: (decoder_task(PreferenceTask, preference=PreferenceConfig(loss="orpo")), pairs(), None),
    "distill": lambda: (
        decoder_task(DistillationTask, teacher=TEACHER, distillation=DistillationConfig(weight=0.5)),
        *(rows(B), "teacher."),
    ),
    "regression": lambda: (RegressionTask(MLP(8, 1), train=None, validation=None), samples(), None),
}


@pytest.mark.parametrize("name", CASES)
def test_micro_batches_equal_the_large_batch(name: str) -> None:
    task, batch, other = CASES[name]()
    frozen = {other + key: value for key, value in init_params(TINY, 7).items()} if other else {}
    step = make_train_step(task.loss, optax.identity(), dtype=FLOAT32, seed=0, weigh=task.weigh)

    def after(count: int) -> tuple[Any, Any]:
        params = task.model.init(3) if name == "regression" else init_params(TINY, 3)
        state = initial_state(jax.tree.map(lambda x: 4 * x, params), optax.identity(), FLOAT32)
        split = {key: value.reshape(count, B // count, *value.shape[1:]) for key, value in batch.items()}
        state, metrics = step(state, frozen, split, 0, 1.0)
        return state.trainable, metrics

    (whole, measured), (pieces, measured_in_pieces) = after(1), after(4)
    tokens = batch["weights"].reshape(4, -1).sum(axis=1)
    assert len(set(tokens)) > 1, "the micro-batches have different weights"
    assert float(measured_in_pieces.loss) == pytest.approx(float(measured.loss), rel=2e-6)
    assert float(measured_in_pieces.weight) == float(measured.weight)
    for key, mean in measured.aux.items():
        assert float(measured_in_pieces.aux[key]) == pytest.approx(float(mean), rel=1e-4, abs=1e-6), key
    for key, value in whole.items():
        np.testing.assert_allclose(pieces[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
