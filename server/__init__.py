"""The HTTP face: a Starlette application over the batching engine. See docs/architecture.md for the map.

What the `--help` of commands needs is imported here; the application when it is asked to `serve`.
"""

from server.access.digests import key_entry, new_key
from server.settings import Settings, flag_name, load_settings, setting_names, variable_name

__all__ = ["Settings", "flag_name", "key_entry", "load_settings", "new_key", "serve", "setting_names", "variable_name"]


def serve(settings: Settings) -> None:
    """`server.process.serve`."""
    from server import process

    process.serve(settings)
