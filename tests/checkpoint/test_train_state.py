"""The state of a run comes back bit for bit, or not at all."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.checkpoint import TrainCheckpointer
from llm_jax.errors import CheckpointError


def state(scale: float = 1.0) -> dict[str, Any]:
    params = {"a.b": jnp.full((3, 2), scale / 3), "c": jnp.arange(4.0).astype(jnp.bfloat16) * scale}
    key = jax.random.key_data(jax.random.key(3))
    return {"params": params, "optimizer": optax.adamw(1e-3).init(params), "nothing": None, "key": key}


def test_a_saved_tree_is_restored_with_its_structure(tmp_path: Path) -> None:
    saved, metadata = state(), {"progress": {"step": 7, "losses": [1.5, None]}}
    TrainCheckpointer(tmp_path / "run/state", 2).save(7, saved, metadata)
    fresh = TrainCheckpointer(tmp_path / "run/state", 2)  # as another process would open it
    assert fresh.latest_step() == 7
    assert fresh.metadata(7) == metadata
    restored, read = fresh.restore(7, jax.eval_shape(lambda: saved))
    assert read == metadata
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_the_last_n_steps_are_retained_and_a_saved_step_is_not_overwritten(tmp_path: Path) -> None:
    checkpointer = TrainCheckpointer(tmp_path, 2)
    assert checkpointer.latest_step() is None
    for step in (1, 2, 3):
        checkpointer.save(step, state(step), {"step": step})
    checkpointer.save(3, state(99.0), {"step": 99})
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 3]
    tree, metadata = checkpointer.restore(3, state())
    assert metadata == {"step": 3}
    np.testing.assert_array_equal(tree["params"]["a.b"], state(3)["params"]["a.b"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tree: tree | {"more": jnp.ones(1)}, "lacks more"),
        (lambda tree: {"params": tree["params"]}, "not asked for"),
        (
            lambda tree: tree | {"params": tree["params"] | {"a.b": jnp.ones((4, 2))}},
            r"a\.b of shape \[3, 2\] instead of \[4, 2\]",
        ),
    ],
)
def test_the_state_of_another_run_is_refused(tmp_path: Path, change: Any, complaint: str) -> None:
    checkpointer = TrainCheckpointer(tmp_path, 2)
    checkpointer.save(1, state(), {})
    with pytest.raises(CheckpointError, match=complaint):
        checkpointer.restore(1, change(state()))


def test_a_missing_and_a_damaged_step_are_named(tmp_path: Path) -> None:
    checkpointer = TrainCheckpointer(tmp_path, 2)
    checkpointer.save(1, state(), {})
    with pytest.raises(CheckpointError, match="no complete step 5"):
        checkpointer.restore(5, state())
    for path in (tmp_path / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r"Step 1 .* is damaged"):
        TrainCheckpointer(tmp_path, 2).restore(1, state())


def test_a_process_killed_while_saving_leaves_complete_steps_only(tmp_path: Path) -> None:
    program = (
        "import jax.numpy as jnp\n"
        "from llm_jax.checkpoint import TrainCheckpointer\n"
        f"checkpointer = TrainCheckpointer({str(tmp_path)!r}, 3)\n"
        "for step in range(1000):\n"
        "    checkpointer.save(step, {'x': jnp.full((200, 200), float(step))}, {'step': step})\n"
        "    print(step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        announced = next(int(line) for line in process.stdout if line.strip() == "5")
        process.send_signal(signal.SIGKILL)  # somewhere inside the next save
    checkpointer = TrainCheckpointer(tmp_path, 3)
    latest = checkpointer.latest_step()
    assert latest is not None
    assert latest >= announced
    tree, metadata = checkpointer.restore(latest, {"x": jnp.zeros((200, 200))})
    assert metadata == {"step": latest}
    np.testing.assert_array_equal(tree["x"], np.full((200, 200), float(latest)))
    checkpointer.save(latest + 1, tree, metadata)
