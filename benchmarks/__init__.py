"""What this project's speed is, and what it could be: `python -m benchmarks`."""
