"""The same run on one device, on meshes of four simulated devices and in two processes has the same loss curve."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax.training.metrics import read_metrics

REPOSITORY = Path(__file__).parents[2]
RESUME = "checkpoint.resume_from_checkpoint=auto"
TOLERANCE = 1e-4  # relative, over every step
SETTINGS = [
    *("training.batch_size=8", "optimization.gradient_accumulation_steps=2", "model.dropout=0.1", "training.lr=0.003"),
    *("training.scheduler_type=step", "training.step_epochs=100", "training.warmup_epochs=0", "model.hidden_size=32"),
    *("model.num_heads=4", "optimization.num_workers=0", "training.gradient_clip_val=0.5"),
    *("data.val_fraction=0.05", "logging.log_level=ERROR"),
]
MESHES = {
    "data": "{data: 4}",
    "fsdp": "{fsdp: 4}",
    "model": "{model: 4}",
    "mixed": "{data: 2, fsdp: 2}",
    "sharded": "{fsdp: 2, model: 2}",
}
# Runs one after the other in one process; the bytes that the state of each takes on the first device.
PROGRAM = """
import json, sys
import jax
from llm_jax.training import Setting, load_train_config, train
from llm_jax.training.loop import Loop

def measure(loop):
    shards = [shard for leaf in jax.tree.leaves(loop.state) for shard in leaf.addressable_shards]
    print(sum(shard.data.nbytes for shard in shards if shard.device == jax.devices()[0]), flush=True)
    run(loop)

run, Loop.run = Loop.run, measure
for settings in json.loads(sys.argv[1]):
    train("lm", load_train_config(environ={}, overrides=[Setting.parse(setting, "test") for setting in settings]))
"""


def environment(devices: int, **more: str) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_", "SLURM_"))}
    return {**environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", **more}


def run_here(*runs: list[str]) -> list[int]:
    """Train in one process with four devices. Returns the bytes of each state on the first device."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(runs)]
    environ = environment(4, JAX_CPU_ENABLE_ASYNC_DISPATCH="false")  # the first run has no mesh, which would set it
    done = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def start_pair(settings: list[str], launcher: str, port: int) -> list[subprocess.Popen[str]]:
    """llm-train in two processes with two devices each, which learn of each other from settings or as under SLURM."""
    command = [sys.executable, "-u", "-m", "cli.train", "--task", "lm", "--device", "cpu"]
    for setting in settings:
        command += ["--set", setting]
    processes = []
    for rank in range(2):
        environ = environment(2, LLM_DISTRIBUTED__NUM_NODES="2", LLM_DISTRIBUTED__NODE_RANK=str(rank))
        environ["LLM_DISTRIBUTED__MASTER_PORT"] = str(port)
        if launcher == "slurm":  # whose coordinator's port follows from the number of the job
            job = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
            job |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
            environ = environment(2, LLM_DISTRIBUTED__AUTO_DETECT="true", **job)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=REPOSITORY, env=environ, **options))
    return processes


def losses(directory: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(directory / "metrics.jsonl") if record["event"] == "step"]


def free_port() -> int:
    """Above 61440, where SLURM's job numbers lead to."""
    for port in range(61441, 65535):
        with socket.socket() as candidate:
            if candidate.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no port is free")


def train_pair(settings: list[str], launcher: str) -> None:
    pair = start_pair(settings, launcher, free_port())
    outputs = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert "Done" in outputs[0][0]
    second = [line for line in outputs[1][0].splitlines() if not line.startswith("[Gloo]")]
    assert second == [], "the first process speaks for both"


def test_a_run_moves_from_a_mesh_to_two_processes(flags, tmp_path):
    """An epoch on a mesh of one process, then two on another mesh, of two processes, as on one device throughout."""
    mesh = "distributed.mesh={fsdp: 2, model: 2}"
    one, sharded = run_here(
        flags(*SETTINGS, directory="one"), flags(*SETTINGS, "training.epochs=1", mesh, directory="moved")
    )
    assert 0.25 * one < sharded < 0.35 * one, "bytes of the state on the first device; norms and biases are whole"
    train_pair(flags(*SETTINGS, RESUME, directory="moved"), "slurm")
    expected = losses(tmp_path / "one")
    assert len(expected) >= 50
    assert losses(tmp_path / "moved") == pytest.approx(expected, rel=TOLERANCE)


@pytest.mark.skipif(not os.environ.get("LLM_JAX_LONG_TESTS"), reason="make test-training runs it: it is long")
def test_every_mesh_and_two_processes(flags, tmp_path):
    """On every mesh and in two processes from the first step; from two processes to one device."""
    runs = [flags(*SETTINGS, f"distributed.mesh={mesh}", directory=name) for name, mesh in MESHES.items()]
    one, *sizes = run_here(flags(*SETTINGS, directory="one"), *runs)
    expected = losses(tmp_path / "one")
    for name in MESHES:
        assert losses(tmp_path / name) == pytest.approx(expected, rel=TOLERANCE), name
    bytes_of = dict(zip(MESHES, sizes, strict=True))
    assert bytes_of["data"] == one
    assert bytes_of["fsdp"] < 0.35 * one
    train_pair(flags(*SETTINGS, "distributed.mesh={fsdp: 4}", directory="pair"), "settings")
    assert losses(tmp_path / "pair") == pytest.approx(expected, rel=TOLERANCE)
    pair = start_pair(flags(*SETTINGS, "logging.log_level=INFO", directory="moved"), "settings", free_port())
    next(line for line in pair[0].stdout if "  step 5  " in line)
    pair[1].terminate()  # one of them; both act upon it after the same step
    outputs = [process.communicate(timeout=300) for process in pair]
    assert [process.returncode for process in pair] == [128 + signal.SIGTERM] * 2, outputs
    assert 5 <= len(losses(tmp_path / "moved")) < len(expected)
    run_here(flags(*SETTINGS, RESUME, directory="moved"))
    assert losses(tmp_path / "moved") == pytest.approx(expected, rel=TOLERANCE)
