"""benchmarks/benchmark_inference.py, under its documented path."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "benchmark_inference.py"), run_name="__main__")
