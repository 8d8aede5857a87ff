"""The HTTP face: a Starlette application over the batching engine. See docs/architecture.md for the map."""
