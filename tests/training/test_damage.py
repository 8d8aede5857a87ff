"""What may happen to the directory of a run: damage, a full disk, a second run, values that are not finite."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm_jax.checkpoint import TrainCheckpointer
from llm_jax.errors import CheckpointError, ConfigError, TrainingError
from llm_jax.training import Setting, load_train_config, train
from llm_jax.training.metrics import read_metrics
from llm_jax.training.run_directory import RunDirectory

RESUME = "checkpoint.resume_from_checkpoint=auto"
LONG = bool(os.environ.get("LLM_JAX_LONG_TESTS"))  # make test-training
STEPS = 12  # in 3 epochs


def regression(directory: Path, *more: str):
    """A run of 12 steps that is saved after every second."""
    settings = [
        *("model.hidden_size=8", "model.num_layers=1", "optimization.num_workers=0", "training.num_samples=36"),
        *("training.batch_size=8", "training.epochs=3", "training.lr=0.01", "logging.log_interval=1"),
        *("checkpoint.save_interval_steps=2", f"logging.log_dir={directory}/logs"),
        *(f"checkpoint.checkpoint_dir={directory}", *more),
    ]
    return load_train_config(environ={}, overrides=[Setting.parse(setting, "test") for setting in settings])


def final_state(directory: Path) -> dict[str, str]:
    """The digests of a finished run's state."""
    assert TrainCheckpointer(directory / "state").steps()[-1] == STEPS
    manifest = json.loads((directory / "state" / str(STEPS) / "manifest.json").read_text())
    return {name: array["digest"] for name, array in manifest["arrays"].items()}


@pytest.fixture(scope="module")
def through(tmp_path_factory):
    """A run that ended, with the states of steps 4, 6, 8, 10 and 12."""
    path = tmp_path_factory.mktemp("through") / "run"
    train("regression", regression(path))
    assert TrainCheckpointer(path / "state").steps() == [4, 6, 8, 10, 12]
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


DAMAGES = [truncate, flip, Path.unlink]


def test_a_damaged_newest_state_is_reported_and_the_one_before_is_used(through, tmp_path, capsys):
    """Each file of it; each kind of damage to each with `make test-training`, in turns without."""
    newest = through / "state" / str(STEPS)
    names = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    cases = [(name, damage) for name in names for damage in DAMAGES]
    for number, (name, damage) in enumerate(cases if LONG else cases[::4]):
        run = tmp_path / str(number)
        shutil.copytree(through, run)
        damage(run / "state" / str(STEPS) / name)
        result = train("regression", regression(run, RESUME))
        out = capsys.readouterr().out
        assert re.search(rf"Step {STEPS} in .* is damaged: .*{re.escape(name.name)} is .*step before", out)
        assert f"Resuming {run} at step 10." in out
        assert final_state(run) == final_state(through)
        assert result.progress.step == STEPS


def test_two_damaged_states_are_passed_over_and_no_whole_one_is_an_error(through, tmp_path, capsys):
    shutil.copytree(through, tmp_path / "run")
    for step in (12, 10):
        flip(next((tmp_path / "run/state" / str(step) / "arrays/d").iterdir()))
    (tmp_path / "run/last/model.safetensors").unlink()  # written anew at the end
    train("regression", regression(tmp_path / "run", RESUME))
    assert "at step 8." in capsys.readouterr().out
    assert final_state(tmp_path / "run") == final_state(through)
    for step in (4, 6, 8, 10, 12):
        shutil.rmtree(tmp_path / "run/state" / str(step) / "arrays")
    with pytest.raises(CheckpointError, match=r"Every saved state .* is damaged \(steps 12, 10, 8, 6, 4\)"):
        train("regression", regression(tmp_path / "run", RESUME))


def test_a_damaged_log_stops_no_run(through, tmp_path):
    shutil.copytree(through, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/state/12")
    lines = (tmp_path / "run/metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[3:3] = [b'{"event": "st\xff\n', b"[]\n", b"7\n", b'{"event": "step", "step": "x"}\n', b"\0\0\0\n"]
    (tmp_path / "run/metrics.jsonl").write_bytes(b"".join(lines))
    train("regression", regression(tmp_path / "run", RESUME))
    assert final_state(tmp_path / "run") == final_state(through)
    steps = [record["step"] for record in read_metrics(tmp_path / "run/metrics.jsonl") if record["event"] == "step"]
    assert steps == list(range(1, STEPS + 1))


def test_leftovers_of_killed_runs_are_swept(through, tmp_path):
    shutil.copytree(through, tmp_path / "run")
    for name in (".last.abcd1234", ".best.x_y_z_00", ".metrics.jsonl.abcdefgh", "state/.10"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "file").touch()
    (tmp_path / "run/.last.mine").touch()  # of another name: not ours
    train("regression", regression(tmp_path / "run", RESUME))
    hidden = sorted(path.name for path in (tmp_path / "run").rglob(".*"))
    assert hidden == [".last.mine", ".lock"]


def test_a_second_run_in_the_directory_is_refused_until_the_first_one_ends(tmp_path):
    program = (
        "import sys; from pathlib import Path; from llm_jax.training.run_directory import RunDirectory\n"
        "with RunDirectory(Path(sys.argv[1])).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=rf"Another run \(process {first.pid} on .*\) is writing to"):
            train("regression", regression(tmp_path))
        first.kill()
    with RunDirectory(tmp_path).lock():
        pass


@pytest.mark.parametrize("path", ["file", "file/run"])
def test_a_file_in_the_place_of_the_directory_is_named(tmp_path, path):
    (tmp_path / "file").touch()
    message = rf"checkpoint_dir is {tmp_path / path}, which is a file or lies below one"
    with pytest.raises(ConfigError, match=message), RunDirectory(tmp_path / path).lock():
        pass


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 900 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", place]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_leaves_what_was_saved_and_says_what_is_wanted(small_disk, tmp_path):
    """A real full disk, in a real process: first while a state is written, then while the run resumes."""
    run, arguments = small_disk / "run", []
    settings = {
        "model.hidden_size": 64,
        "model.num_layers": 2,
        "training.num_samples": 36,
        "training.batch_size": 8,
        "checkpoint.save_interval_steps": 2,
        "checkpoint.keep_last_n": 100,
        "checkpoint.checkpoint_dir": run,
        "logging.log_dir": tmp_path / "logs",
    }
    for name, value in settings.items():
        arguments += ["--set", f"{name}={value}"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}

    def llm_train(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli.train", "--task", "regression", "--device", "cpu", *arguments, *more]
        root = Path(__file__).parents[2]
        return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)

    assert llm_train("--epochs", "1").returncode == 0
    saved = TrainCheckpointer(run / "state").steps()
    parameters = 64 + 64 + 64 * 64 + 64 + 64 + 1
    room = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(b"x" * (room.f_bavail * room.f_bsize - 40_000))
    for filled in (False, True):
        if filled:  # to the last byte
            room = os.statvfs(small_disk)
            (small_disk / "more").write_bytes(b"x" * (room.f_bavail * room.f_bsize))
        done = llm_train("--epochs", "5", "--resume")
        assert done.returncode == 2, done.stderr
        wanted, free = re.search(r"A save takes about ([\d,]+) bytes, and ([\d,]+) are free", done.stderr).groups()
        assert int(wanted.replace(",", "")) == 4 * (parameters * 4 + 1), "a model, three arrays each in the state"
        assert int(free.replace(",", "")) <= 40_960
        assert str(run) in done.stderr
        assert "Delete something" in done.stderr
        assert "Traceback" not in done.stderr + done.stdout
        assert not list(run.glob("state/.*"))
        assert TrainCheckpointer(run / "state").steps()[: len(saved)] == saved
    (small_disk / "filler").unlink()
    (small_disk / "more").unlink()
    assert llm_train("--epochs", "2", "--resume").returncode == 0


def test_steps_that_are_not_finite_are_skipped_and_counted_and_end_the_run(tmp_path):
    """A learning rate of 1e30 makes the parameters large but finite in one step, and every loss after it infinite."""
    exploding = ["training.lr=1e30", "training.warmup_epochs=0", "checkpoint.save_interval_steps=1"]
    says = r"(loss|gradient norm) became (nan|inf) at step 4, and 3 steps in a row .*newest saved state, .* of step 1;"
    with pytest.raises(TrainingError, match=says):
        train("regression", regression(tmp_path, *exploding, "training.max_skipped_steps=2"))
    records = [record for record in read_metrics(tmp_path / "metrics.jsonl") if record["event"] == "step"]
    assert [(record["step"], record["loss"] is None, record["skipped"]) for record in records] == [
        *((1, False, 0), (2, True, 1), (3, True, 2))
    ]
    assert TrainCheckpointer(tmp_path / "state").steps() == [1]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """lr times the update overflows to infinity in the first step, whose loss and gradient are finite."""
    says = r"state after step 1 is not finite .*so it is not saved.*No state has been saved yet"
    settings = ["training.lr=3e38", "training.warmup_epochs=0", "training.weight_decay=3"]
    with pytest.raises(TrainingError, match=says):
        train("regression", regression(tmp_path, *settings, "checkpoint.save_interval_steps=1"))
    assert not list((tmp_path / "state").glob("*"))


def test_states_are_kept_that_are_the_newest_or_the_best_by_a_metric(tmp_path):
    keeping = ["checkpoint.keep_last_n=1", "checkpoint.keep_best_n=2", "checkpoint.best_metric=train_loss"]
    for mode, expected in (("min", [8, 12]), ("max", [4, 8, 12])):
        run = train("regression", regression(tmp_path / mode, *keeping, f"checkpoint.best_mode={mode}")).run
        losses = [record["train_loss"] for record in read_metrics(run.metrics) if record["event"] == "epoch"]
        assert losses == sorted(losses, reverse=True), "each epoch is better than the one before"
        assert run.checkpointer().steps() == expected
    with pytest.raises(ConfigError, match=r"best_metric is 'accuracy', which this run does not measure: .*train_loss"):
        train("regression", regression(tmp_path / "other", "checkpoint.best_metric=accuracy"))


@pytest.mark.parametrize(
    ("setting", "before", "after"),
    [
        ("model.hidden_size=16", "8", "16"),
        ("model.activation=relu", '"gelu"', '"relu"'),
        ("training.batch_size=4", "8", "4"),
        ("training.seed=7", "0", "7"),
        ("training.num_samples=40", "36", "40"),
        ("data.val_fraction=0.2", "0.1", "0.2"),
        ("optimization.gradient_accumulation_steps=2", "1", "2"),
        ("optimization.use_amp=true", "false", "true"),
    ],
)
def test_what_must_not_change_on_resume_is_named_with_both_values(through, setting, before, after):
    name = re.escape(setting.partition("=")[0])
    with pytest.raises(ConfigError, match=rf"^{name} was {before} in the run in .*, and is {after} now"):
        train("regression", regression(through, RESUME, setting))


def test_what_may_change_on_resume_is_reported(through, tmp_path, capsys):
    shutil.copytree(through, tmp_path / "run")
    more = ["training.epochs=4", "training.lr=0.002", "optimization.num_workers=1", "checkpoint.keep_last_n=2"]
    assert train("regression", regression(tmp_path / "run", RESUME, *more)).progress.step == 16
    out = capsys.readouterr().out
    assert "training.lr was 0.01 in the run in" in out
    assert "training.epochs was 3" in out
    assert "num_workers" not in out
