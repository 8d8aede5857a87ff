"""The comparison, on a tiny model: the engines compute the same tokens, and tables show the measured figures."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.engines import BenchmarkEngine, InSubprocess, LlamaCpp, LlmJax, Transformers
from benchmarks.report import add_line, put_section
from benchmarks.step_profile import PARTS
from benchmarks.weights import random_weights

ROOT = Path(__file__).parents[2]
# Eight steps: at least one call that decodes four tokens begins and ends within the span that is timed and profiled.
SMALL = ["--model-shape", "tiny", "--context", "16", "--prefill", "40", "--rounds", "1", "--steps", "8"]


def start(*arguments: str, first_in_path: Path = ROOT) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": f"{first_in_path}:{ROOT}"}
    command = [sys.executable, "-m", "benchmarks", *SMALL, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )


def benchmark(*arguments: str, first_in_path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    with start(*arguments, first_in_path=first_in_path) as process:
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


@pytest.fixture(scope="module")
def tables_and_json(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[list[str]]], dict[str, Any], Path]:
    """A run over two weight dtypes and two batches: its tables from RESULTS.md, its JSON, its directory."""
    directory = tmp_path_factory.mktemp("results")
    files = ["--json", str(directory / "run.json"), "--results", str(directory / "RESULTS.md")]
    done = benchmark("--dtype", "float32", "--dtype", "int8", "--batch", "1", "--batch", "3", *files)
    assert done.returncode == 0, done.stderr
    lines = (directory / "RESULTS.md").read_text().splitlines()
    tables: list[list[list[str]]] = [[]]
    for line in lines:
        if line.startswith("| "):
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif tables[-1] and not line.startswith("|-"):
            tables.append([])
    return tables, json.loads((directory / "run.json").read_text()), directory


def test_the_table_shows_the_figures_of_the_json(tables_and_json: Any) -> None:
    [[header, *lines], *_], report, _ = tables_and_json
    assert [(cell["dtype"], cell["task"], cell["batch"]) for cell in report["cells"]] == [
        (dtype, task, batch)
        for dtype in ("float32", "int8")
        for task, batch in (("prefill", 1), ("decode", 1), ("decode", 3))
    ]
    for line, cell in zip(lines, report["cells"], strict=True):
        shown = dict(zip(header, line, strict=True))
        assert (shown["weights"], shown["task"]) == (cell["dtype"], cell["task"])
        assert (int(shown["context"]), int(shown["batch"])) == (cell["context"], cell["batch"])
        for name, rate in cell["tokens_per_second"].items():
            assert float(shown[name]) == pytest.approx(rate, abs=0.51)
        for name, ratio in cell["ratios"].items():
            assert ratio == pytest.approx(cell["tokens_per_second"]["llm"] / cell["tokens_per_second"][name])
            assert float(shown[f"× {name}"]) == pytest.approx(ratio, abs=0.0051)
        assert float(shown["limit"]) == pytest.approx(cell["limit"], abs=0.51)
        assert cell["share"] == pytest.approx(cell["tokens_per_second"]["llm"] / cell["limit"])


def test_an_unavailable_engine_is_named_with_the_reason(tables_and_json: Any) -> None:
    [[header, *lines], *_], report, directory = tables_and_json
    int8 = [dict(zip(header, line, strict=True)) for line in lines if line[0] == "int8"]
    assert {line["transformers"] for line in int8} == {"–"}
    assert "no int8" in report["notes"]["transformers, int8"]
    assert "transformers, int8: has no int8" in (directory / "RESULTS.md").read_text()


def test_the_profile_accounts_for_each_step(tables_and_json: Any) -> None:
    _, report, _ = tables_and_json
    assert [row["what"] for row in report["profile"]] == ["prefill of 40", "decode, batch 1", "decode, batch 3"] * 2
    for row in report["profile"]:
        assert list(row["seconds"]) == list(PARTS)
        assert all(row["seconds"][part] > 0 for part in ("products", "attention", "rest", "host"))


def test_the_plot_lies_beside_the_json_and_is_shown(tables_and_json: Any) -> None:
    *_, directory = tables_and_json
    assert (directory / "run.png").read_bytes().startswith(b"\x89PNG")
    assert "](run.png)" in (directory / "RESULTS.md").read_text()


def test_without_llama_cpp_the_rest_is_measured_the_reason_is_printed_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp.py").write_text("raise ImportError('not here')")
    committed = [ROOT / "benchmarks/RESULTS.md", *(ROOT / "benchmarks/results").glob("*")]
    before = [path.read_bytes() for path in committed]
    arguments = ("--dtype", "float32", "--batch", "1", "--peers", "llama.cpp", "--no-profile")
    done = benchmark(*arguments, first_in_path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"llama\.cpp, float32: not installed; pip install 'llm\[llama-cpp\]'", done.stdout)
    assert re.search(r"decode .* 1 .* – ", done.stdout)
    assert [path.read_bytes() for path in committed] == before  # a narrowed run leaves them alone


# Wraps the real llama_cpp, and kills the process in a step of batch 3, as a system out of memory does.
DEADLY_LLAMA_CPP = """
import os, signal, sys
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))
del sys.modules["llama_cpp"]
import llama_cpp

decode = llama_cpp.llama_decode

def deadly(context, batch):
    if batch.n_tokens == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(context, batch)

llama_cpp.llama_decode = deadly
"""


def test_a_killed_run_leaves_its_figures_so_far_and_a_run_whose_peer_is_killed_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="the extra 'llama-cpp' is not installed")
    (tmp_path / "llama_cpp.py").write_text(DEADLY_LLAMA_CPP)
    files = ["--json", str(tmp_path / "run.json"), "--results", str(tmp_path / "RESULTS.md")]
    options = ["--dtype", "float32", "--dtype", "int8", "--batch", "3", "--batch", "1", "--peers", "llama.cpp"]
    with start(*options, *files, "--no-profile", first_in_path=tmp_path) as process:
        assert process.stderr is not None
        assert any(line.startswith("int8 prefill") for line in process.stderr)
        process.kill()
    report, text = json.loads((tmp_path / "run.json").read_text()), (tmp_path / "RESULTS.md").read_text()
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    found = {
        (cell["task"], cell["batch"]): (set(cell["tokens_per_second"]), cell["absent"]) for cell in report["cells"]
    }
    both = {"llm", "llama.cpp"}
    died = "its process died, exit code -9"
    assert found == {
        ("prefill", 1): (both, {}),
        ("decode", 3): ({"llm"}, {"llama.cpp": died}),
        ("decode", 1): (both, {}),  # measured after it, by a new process
    }
    assert f"- llama.cpp, float32 decode 3 × 16: {died}." in text
    assert len(re.findall(r"^\| float32 \|", text, re.M)) == 3


@pytest.mark.parametrize("peer", [LlamaCpp, Transformers])
@pytest.mark.parametrize("context", [16, 300])  # llama.cpp changes its attention between them
def test_engines_choose_the_same_tokens(peer: type[BenchmarkEngine], context: int) -> None:
    if peer is LlamaCpp:
        pytest.importorskip("llama_cpp", reason="the extra 'llama-cpp' is not installed")
    with random_weights("tiny") as weights:
        made = []
        for engine in (
            LlmJax(weights, "float32", max_batch=3, max_len=350),
            InSubprocess(peer, weights, "float32", max_batch=3, max_len=350),
        ):
            assert engine.prefill(context) > 0
            made.append([tokens[:9] for tokens in engine.decode(3, context, 8).tokens])
            engine.close()
    own, peers = made
    assert [len(tokens) for tokens in own] == [9, 9, 9]
    assert len({tuple(tokens) for tokens in own}) == 3
    assert peers == own


def test_a_section_is_replaced_and_the_text_around_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\nBy hand.\n")
    put_section(path, "one", "first \\1")
    put_section(path, "two", "other")
    put_section(path, "one", "second")
    text = path.read_text()
    assert "first" not in text
    assert text.index("By hand.") < text.index("second") < text.index("other")


def test_lines_are_added_to_the_existing_table(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for day in ("1", "2"):
        add_line(path, "gpu", {"date": day, "device": "one"})
    assert [line for line in path.read_text().splitlines() if line.startswith("|")] == [
        *("| date | device |", "|---|---|"),
        *("| 1 | one |", "| 2 | one |"),
    ]
