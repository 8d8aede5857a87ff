"""The HTTP face: a Starlette application over the batching engine. See docs/architecture.md for the map.

What `llm-serve --help` needs is imported here; the application when it is asked to `serve`.
"""

from server.settings import Settings, flag_name, load_settings, setting_names, variable_name

__all__ = ["Settings", "flag_name", "load_settings", "serve", "setting_names", "variable_name"]


def serve(settings: Settings) -> None:
    """`server.process.serve`."""
    from server import process

    process.serve(settings)
