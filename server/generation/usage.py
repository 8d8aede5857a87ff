"""The counts of tokens in a stream's chunks."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.generation.generation import Generation
    from server.schemas.openai import StreamOptions


class StreamUsage:
    """What `stream_options` adds to the chunks of a stream."""

    def __init__(self, options: StreamOptions, generation: Generation, *, prompts: int) -> None:
        self._options, self._generation, self._prompts = options, generation, prompts

    def of_chunk(self) -> dict[str, Any]:
        """Fields of each chunk: the counts so far, or null where they come at the end alone; random filling."""
        fields: dict[str, Any] = {}
        if self._options.continuous_usage_stats:
            fields["usage"] = self._generation.usage(prompts=self._prompts)
        elif self._options.include_usage:
            fields["usage"] = None
        if self._options.include_obfuscation:
            fields["obfuscation"] = secrets.token_urlsafe(secrets.randbelow(16))
        return fields

    def at_end(self) -> Iterator[dict[str, Any]]:
        """Fields of the chunk after the last one, where there is one."""
        if self._options.include_usage:
            yield {"usage": self._generation.usage(prompts=self._prompts)}
