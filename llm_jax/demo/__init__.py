"""The model that ships with the package, so that everything works offline. `scripts/make_demo_model.py` makes it."""

from pathlib import Path

PATH = Path(__file__).parent
