"""One choice's tokens as deltas."""

from __future__ import annotations

from typing import Protocol

from llm_jax.inference import TextStream, TokenEvent
from server.deltas import Delta


class ChoiceText(Protocol):
    """Turns the tokens of one choice into deltas."""

    def push(self, event: TokenEvent) -> Delta:
        """What can be sent after this token. After a delta with a finish_reason, push no more."""


class PlainText:
    """Text alone."""

    def __init__(self, text: TextStream) -> None:
        self._text = text

    def push(self, event: TokenEvent) -> Delta:
        piece = self._text.push(event)
        return Delta(piece.text, finish_reason=piece.finish_reason)
