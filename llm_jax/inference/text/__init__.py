"""Text in, text out, on top of the engine."""
