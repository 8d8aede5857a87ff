"""Models, under their documented paths."""
