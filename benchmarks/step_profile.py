"""Profile of a step by part, from XLA's own trace of the operations that it runs.

Every operation that XLA runs is traced with its name, and the compiled program says which line of this project each
name comes from. Moments in which nothing runs count as the host's: scheduling, dispatch, events.
"""

import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.profiler import ProfileData, ProfileOptions

from benchmarks.engines.llm_jax import TIMED

PARTS = ("products", "attention", "sampling", "rest", "host")
TRAINING_PARTS = ("products", "attention", "loss", "update", "rest", "host")
# (file, function) -> the part that its operations count as; of nested functions the innermost listed one decides.
PART_OF_SOURCE = {
    ("kernels/cpu/blocks.py", ""): "products",
    ("kernels/cpu/matmul.py", ""): "products",
    ("kernels/matmul_dispatch.py", ""): "products",
    ("kernels/xla/blocks.py", ""): "products",
    ("kernels/xla/matmul.py", ""): "products",
    ("kernels/xla/functions.py", ""): "rest",
    ("model/layers.py", "Linear.__call__"): "products",
    ("model/layers.py", "products"): "products",
    ("model/layers.py", "Embedding.scores"): "products",
    ("kernels/cpu/attention.py", ""): "attention",
    ("kernels/cpu/self_attention.py", ""): "attention",
    ("kernels/xla/attention.py", ""): "attention",
    ("kernels/xla/blocked_attention.py", ""): "attention",
    ("kernels/cache_format.py", ""): "attention",
    ("model/cache.py", ""): "attention",
    ("inference/engine/sampling.py", ""): "sampling",
    ("inference/engine/sampling_state.py", ""): "sampling",
    ("model/decoder.py", ""): "rest",
    ("training/tasks/losses.py", ""): "loss",
    ("training/step.py", "train_step"): "update",
}
CONTAINERS = {"call", "conditional", "while"}  # their operations are traced as well
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(\S+) = (?:\(.*?\)|\S+) ([\w-]+)\(.*?(?:stack_frame_id=(\d+)|$)", re.M)


class Operation(NamedTuple):
    """One run of one operation; nanoseconds."""

    name: str
    program: str
    start: float
    end: float


def profile(run: Callable[[], object], names: Sequence[str] = PARTS) -> dict[str, float]:
    """Seconds of each of these parts within the span that `run` annotates as timed; programs must be compiled.

    Moments in which several threads compute are shared between their operations, so that the parts add up to the time
    that passed.
    """
    options = ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as directory:
        jax.profiler.start_trace(directory, profiler_options=options)
        try:
            run()
        finally:
            jax.profiler.stop_trace()
        [path] = Path(directory).rglob("*.xplane.pb")
        (start, end), operations = _read(ProfileData.from_file(str(path)))
    parts = _parts_of_programs(operations)
    seconds = dict.fromkeys(names, 0.0)
    marks = []
    for operation in operations:
        part = parts[operation.program].get(operation.name, "rest")
        if part not in CONTAINERS and operation.start < end and operation.end > start:
            marks += [(max(operation.start, start), 1, part), (min(operation.end, end), -1, part)]
    running: Counter[str] = Counter()
    last = start
    marks.sort(key=lambda mark: (mark[0], -mark[1]))  # an operation of no duration begins before it ends
    for moment, change, part in [*marks, (end, 0, "host")]:
        for name, count in running.items():
            seconds[name] += (moment - last) * count / running.total() / 1e9
        if not running.total():
            seconds["host"] += (moment - last) / 1e9
        running[part] += change
        running += Counter()  # drops zeros
        last = moment
    return seconds


def _read(data: ProfileData) -> tuple[tuple[float, float], list[Operation]]:
    """The timed span, and every operation that was traced."""
    span, operations = None, []
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == TIMED:
                    span = event.start_ns, event.start_ns + event.duration_ns
                    continue
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    program = f"{stats['hlo_module']} {stats['program_id']}"
                    end = event.start_ns + event.duration_ns
                    operations.append(Operation(str(stats["hlo_op"]), program, event.start_ns, end))
    assert span is not None
    return span, operations


def _parts_of_programs(operations: Iterable[Operation]) -> dict[str, dict[str, str]]:
    """For each program that ran: operation -> part, from the compiled program that shares most names."""
    names: dict[str, set[str]] = defaultdict(set)
    for operation in operations:
        names[operation.program].add(operation.name)
    compiled: dict[str, list[dict[str, str]]] = {program.split()[0]: [] for program in names}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            if module.name in compiled:
                compiled[module.name].append(parts_of_text(module.to_string()))
    return {
        program: max(compiled[program.split()[0]], key=lambda parts: len(seen & parts.keys()))
        for program, seen in names.items()
    }


def parts_of_text(text: str) -> dict[str, str]:
    """operation -> part, or its opcode for a container, from a compiled program's text."""
    part_of_frame = _frames(text)
    return {
        name: opcode if opcode in CONTAINERS else part_of_frame.get(frame, "rest")
        for name, opcode, frame in INSTRUCTION.findall(text)
    }


def _frames(text: str) -> dict[str, str]:
    """Stack frame -> part. The text holds four tables that refer to each other by number."""
    tables: dict[str, dict[str, str]] = {}
    for title, body in re.findall(r"^(FileNames|FunctionNames|FileLocations|StackFrames)\n((?:\d+ .*\n)*)", text, re.M):
        tables[title] = dict(line.split(" ", 1) for line in body.splitlines())
    part_of_frame: dict[str, str] = {}
    for frame, content in tables.get("StackFrames", {}).items():
        link = dict(re.findall(r"(\w+)=(\d+)", content))
        location = dict(re.findall(r"(\w+)=(\d+)", tables["FileLocations"][link["file_location_id"]]))
        file = tables["FileNames"][location["file_name_id"]].strip('"')
        function = tables["FunctionNames"][location["function_name_id"]].strip('"')
        matches = (part for (end, name), part in PART_OF_SOURCE.items() if file.endswith(end) and name in function)
        parent = str(int(link["parent_frame_id"]) - 1)  # numbered from one; a frame without a parent names itself
        part_of_frame[frame] = next(matches, None) or part_of_frame.get(parent, "rest")
    return part_of_frame
