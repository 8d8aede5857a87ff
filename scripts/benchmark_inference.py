"""benchmarks/benchmark_inference.py, under its documented path."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    runpy.run_module("benchmarks.benchmark_inference", run_name="__main__")
