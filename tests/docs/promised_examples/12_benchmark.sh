uv run scripts/benchmark_inference.py --compile --runs 5
