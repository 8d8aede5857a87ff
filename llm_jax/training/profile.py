"""A trace of some steps, by XLA's profiler: for TensorBoard's profile plugin, Perfetto and xprof."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from llm_jax.training.step import TrainStep

UNTRACED = 2  # the first steps of a process, which compile and fill memory


@contextlib.contextmanager
def profiled(step: TrainStep, directory: Path, steps: int) -> Iterator[TrainStep]:
    """`step`, the first calls of which are traced, after UNTRACED; a run that ends within them ends the trace too.

    Args:
        steps: how many; 0: none.
    """
    calls, tracing = 0, False

    def traced(*arguments: Any) -> Any:
        nonlocal calls, tracing
        if calls == UNTRACED:
            jax.block_until_ready(arguments[0])  # no step before belongs to the trace
            jax.profiler.start_trace(directory)
            tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=calls) if tracing else contextlib.nullcontext():
            result = step(*arguments)
        calls += 1
        if tracing and calls == UNTRACED + steps:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            tracing = False
        return result

    try:
        yield traced if steps else step
    finally:
        if tracing:
            jax.profiler.stop_trace()
