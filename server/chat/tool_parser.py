"""Tool calls in a text that arrives in pieces."""

from __future__ import annotations

import secrets
import string
from collections.abc import Collection

from llm_jax.tokenizers import CallSyntax
from server.chat.call_scanner import CallScanner
from server.generation.deltas import ToolCallDelta

_ID_CHARACTERS = string.ascii_letters + string.digits


class ToolCallParser:
    """Parts the calls of an answer from its text.

    It takes what a grammar of `Grammars.tool_calls` lets through, and what models write by themselves: other white
    space, other order of keys, arguments as a string. What turns out to be no call is text.

    Args:
        names: of the tools that may be called.
    """

    def __init__(self, syntax: CallSyntax, names: Collection[str]) -> None:
        self._syntax, self._names = syntax, names
        self._rest = ""  # what has not been decided on
        self._skipped = ""  # what announces a call that has not begun: text, if it turns out to be none
        self._in_calls = False
        self._has_text = False
        self._is_text = False  # for good: a bare answer that begins otherwise than calls do
        self._call: CallScanner | None = None
        self._calls = 0

    @property
    def has_calls(self) -> bool:
        return self._calls > 0

    def push(self, text: str) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The text that is none of a call, and what calls gained."""
        self._rest += text
        content: list[str] = []
        deltas: list[ToolCallDelta] = []
        while self._step(content, deltas):
            pass
        return "".join(content), tuple(deltas)

    def end(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """What has been withheld; call it when no more text comes."""
        if self._call is not None and self._call.index is None:
            return self._skipped + self._call.text, ()
        rest = "" if self._in_calls and self._calls and not self._skipped else self._rest
        return self._skipped + rest, ()

    def _step(self, content: list[str], deltas: list[ToolCallDelta]) -> bool:
        """Decides on the next piece of the rest; False where more text has to come first."""
        if self._call is not None:
            return self._read_call(self._call, content, deltas)
        if self._in_calls:
            return self._find_next_call(content)
        if self._is_text:
            content.append(self._rest)
            self._rest = ""
            return False
        return self._find_trigger(content) if self._syntax.trigger else self._look_at_beginning()

    def _find_trigger(self, content: list[str]) -> bool:
        trigger = self._syntax.trigger
        before, found, after = self._rest.partition(trigger)
        if found:
            is_text = not before.isspace() or self._has_text
            if is_text:
                content.append(before)
            self._skipped = trigger if is_text else before + trigger
            self._rest, self._in_calls = after, True
            return True
        decided = len(self._rest) - _overlap(self._rest, trigger)
        if self._has_text or not self._rest[:decided].isspace():  # space before the first call is no text
            self._has_text = self._has_text or decided > 0
            content.append(self._rest[:decided])
            self._rest = self._rest[decided:]
        return False

    def _look_at_beginning(self) -> bool:
        beginning = self._rest.lstrip()
        if beginning:
            self._is_text = not beginning.startswith("{")
            self._in_calls = not self._is_text
        return bool(beginning)

    def _find_next_call(self, content: list[str]) -> bool:
        """Skips what stands between calls; other text ends them."""
        marks = [mark for mark in (self._syntax.trigger, self._syntax.tail.lstrip("}\n"), "[", "]", ",", ";") if mark]
        rest = self._rest.lstrip()
        if not rest or any(mark.startswith(rest) and mark != rest for mark in marks):
            return False
        mark = next((mark for mark in marks if rest.startswith(mark)), None)
        if mark is not None:
            if self._skipped or mark == self._syntax.trigger:
                self._skipped += self._rest[: len(self._rest) - len(rest)] + mark
            self._rest = rest.removeprefix(mark)
            return True
        if rest.startswith("{") or self._syntax.head == "":
            self._call = CallScanner(self._syntax)
        else:
            self._in_calls, self._is_text = False, not self._syntax.trigger
            self._give_back(content)
        return True

    def _give_back(self, content: list[str]) -> None:
        content.append(self._skipped)
        self._skipped = ""

    def _read_call(self, call: CallScanner, content: list[str], deltas: list[ToolCallDelta]) -> bool:
        self._rest = call.push(self._rest)
        if call.index is None and call.name in self._names and (call.arguments or call.is_whole):
            call.index, self._calls, self._skipped = self._calls, self._calls + 1, ""
            deltas.append(ToolCallDelta(call.index, id=self._new_id(), name=call.name))
        if call.index is not None:
            new = call.take_arguments()
            if new:
                deltas.append(ToolCallDelta(call.index, new))
        if not (call.is_whole or call.is_broken):
            return False
        if call.index is None:
            self._give_back(content)
            content.append(call.text)
            self._in_calls, self._is_text = False, True
        self._call = None
        return True

    def _new_id(self) -> str:
        if self._syntax.id_length is None:
            return f"call_{secrets.token_hex(12)}"
        return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(self._syntax.id_length))


def _overlap(text: str, mark: str) -> int:
    """The length of the longest end of the text that the mark begins with."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)
