"""The measurement of the start-up time of commands."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.start import seconds_of, seconds_to_ready


def test_the_whole_process_counts() -> None:
    assert seconds_of("-c", "import time; time.sleep(0.3)", repeats=1) >= 0.3


def test_a_command_that_fails_has_no_time() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        seconds_of("-c", "raise SystemExit(2)", repeats=1)


def test_a_server_caches_its_programs_for_the_next_start(tmp_path: Path) -> None:
    assert seconds_to_ready(str(tmp_path)) > 0
    programs = [path.name for path in tmp_path.rglob("*.program")]
    assert any("forward_chunks" in name for name in programs)
    assert any("sample_tokens" in name for name in programs)
