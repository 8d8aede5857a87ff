"""The state of a run comes back bit for bit, or not at all."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from llm_jax.checkpoint import TrainCheckpointer
from llm_jax.checkpoint.digest import digests
from llm_jax.errors import CheckpointError, DamagedCheckpoint, TrainingError


def state(scale: float = 1.0) -> dict[str, Any]:
    params = {"a.b": jnp.full((3, 2), scale / 3), "c": jnp.arange(4.0).astype(jnp.bfloat16) * scale}
    key = jax.random.key_data(jax.random.key(3))
    return {"params": params, "optimizer": optax.adamw(1e-3).init(params), "nothing": None, "key": key}


def test_a_saved_tree_is_restored_with_its_structure(tmp_path: Path) -> None:
    saved, metadata = state(), {"progress": {"step": 7, "losses": [1.5, None]}}
    TrainCheckpointer(tmp_path / "run/state").save(7, saved, metadata).commit()
    fresh = TrainCheckpointer(tmp_path / "run/state")  # as another process would open it
    assert fresh.steps() == [7]
    assert fresh.metadata(7) == metadata
    restored = fresh.restore(7, jax.eval_shape(lambda: saved))
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_a_step_is_replaced_and_removed(tmp_path: Path) -> None:
    checkpointer = TrainCheckpointer(tmp_path)
    assert checkpointer.steps() == []
    for step, scale in ((1, 1.0), (12, 2.0), (3, 3.0), (3, 4.0)):
        checkpointer.save(step, state(scale), {"scale": scale}).commit()
    checkpointer.remove(1)
    assert checkpointer.steps() == [3, 12]
    assert checkpointer.metadata(3) == {"scale": 4.0}
    np.testing.assert_array_equal(checkpointer.restore(3, state())["params"]["a.b"], state(4)["params"]["a.b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["12", "3"]


def test_a_step_holds_what_was_true_when_it_was_saved(tmp_path: Path) -> None:
    """The next step donates the arrays while they are written."""
    donate = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    tree = {"x": jnp.arange(2.0**18)}
    checkpointer = TrainCheckpointer(tmp_path)
    pending = checkpointer.save(1, tree, {})
    tree = donate(tree)
    assert checkpointer.steps() == []
    pending.commit()
    np.testing.assert_array_equal(checkpointer.restore(1, tree)["x"], np.arange(2.0**18))


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
    checkpointer = TrainCheckpointer(tmp_path)
    checkpointer.save(1, state(), {}).commit()
    with pytest.raises(CheckpointError, match=complaint):
        checkpointer.restore(1, change(state()))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink], ids=["truncated", "flipped", "deleted"])
def test_damage_to_each_file_is_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    checkpointer = TrainCheckpointer(tmp_path / "whole")
    checkpointer.save(1, state(), {"step": 1}).commit()
    names = [path.relative_to(tmp_path / "whole/1") for path in (tmp_path / "whole/1").rglob("*") if path.is_file()]
    assert len(names) > 5
    for number, name in enumerate(names):
        copy = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", copy)
        damage(copy / "1" / name)
        with pytest.raises(DamagedCheckpoint, match=rf"Step 1 .* is damaged: .*{re.escape(name.name)} is"):
            TrainCheckpointer(copy).restore(1, state())
    checkpointer.restore(1, state())


def test_values_that_changed_on_the_way_are_noticed(tmp_path: Path) -> None:
    """Whatever the files say, the arrays in memory are compared with those that were saved."""
    checkpointer = TrainCheckpointer(tmp_path)
    pending = checkpointer.save(1, state(), {})
    pending.contents["arrays"]["params/a.b"]["digest"] = "0" * 16
    pending.commit()
    with pytest.raises(DamagedCheckpoint, match=r"the values of params/a.b are not those that were saved"):
        checkpointer.restore(1, state())


def test_what_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    tree = state()
    tree["params"]["c"] = tree["params"]["c"].at[2].set(jnp.nan)
    with pytest.raises(TrainingError, match=r"after step 1 is not finite \(params/c\)"):
        TrainCheckpointer(tmp_path).save(1, tree, {})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no step 5"):
        TrainCheckpointer(tmp_path).restore(5, state())


def test_a_process_killed_while_saving_leaves_complete_steps_only(tmp_path: Path) -> None:
    program = (
        "import jax.numpy as jnp\n"
        "from llm_jax.checkpoint import TrainCheckpointer\n"
        f"checkpointer = TrainCheckpointer({str(tmp_path)!r})\n"
        "for step in range(1000):\n"
        "    checkpointer.save(step, {'x': jnp.full((200, 200), float(step))}, {'step': step}).commit()\n"
        "    print(step, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        announced = next(int(line) for line in process.stdout if line.strip() == "5")
        process.send_signal(signal.SIGKILL)  # somewhere inside the next save
    checkpointer = TrainCheckpointer(tmp_path)
    latest = checkpointer.steps()[-1]
    assert latest >= announced
    tree = checkpointer.restore(latest, {"x": jnp.zeros((200, 200))})
    assert checkpointer.metadata(latest) == {"step": latest}
    np.testing.assert_array_equal(tree["x"], np.full((200, 200), float(latest)))
    checkpointer.sweep()
    assert all(path.name.isdecimal() for path in tmp_path.iterdir())
    checkpointer.save(latest + 1, tree, {}).commit()


DIGESTED = [np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.arange(9, dtype=np.int32), np.array([True, False])]


@pytest.mark.parametrize("array", [*DIGESTED, jnp.arange(6.0, dtype=jnp.bfloat16), jnp.float32(3.0)], ids=str)
def test_any_bit_and_any_two_elements_swapped_change_the_digest(array: Any) -> None:
    def digest(value: Any) -> str:
        return digests({"x": jnp.asarray(value)})[0]["x"]

    array = np.asarray(array)
    found = {digest(array)}
    bits = range(array.size * array.itemsize * 8) if array.dtype != bool else range(0, array.size * 8, 8)
    for bit in bits:
        data = bytearray(array.tobytes())
        data[bit // 8] ^= 1 << bit % 8
        found.add(digest(np.frombuffer(data, array.dtype).reshape(array.shape)))
    assert len(found) == 1 + len(bits)
    if array.size > 1:
        flat = array.reshape(-1).copy()
        flat[[0, 1]] = flat[[1, 0]]
        assert digest(flat.reshape(array.shape)) not in found
