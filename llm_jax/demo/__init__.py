"""The model that ships with the package, so that everything works offline: see `scripts/make_demo_model.py`."""

from pathlib import Path

PATH = Path(__file__).parent
