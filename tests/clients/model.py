"""The model that clients talk to: what it says is known, and what it says within a grammar ends soon."""

from pathlib import Path

from tests.server.tiny import save_reciter

CONTEXT = 4096

KEY = "sesame"  # of the server that has it


def save_client_model(directory: Path) -> Path:
    """Writes a model that recites; where the text cannot go on so, strings, objects and lists end first of all."""
    return save_reciter(directory, context=CONTEXT, preferred='"}],')
