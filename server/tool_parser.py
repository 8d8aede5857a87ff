"""Tool calls in a text that arrives in pieces."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Collection

from llm_jax.tokenizers import CallSyntax
from server.deltas import ToolCallDelta

_ARGUMENTS = ("arguments", "parameters")
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
        self._in_calls = False
        self._has_text = False
        self._is_text = False  # for good: a bare answer that begins otherwise than calls do
        self._call: _Call | None = None
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
            return self._call.text, ()
        rest = "" if self._in_calls else self._rest
        return rest, ()

    def _step(self, content: list[str], deltas: list[ToolCallDelta]) -> bool:
        """Decides on the next piece of the rest; False where more text has to come first."""
        if self._call is not None:
            return self._read_call(self._call, content, deltas)
        if self._in_calls:
            return self._find_next_call()
        if self._is_text:
            content.append(self._rest)
            self._rest = ""
            return False
        return self._find_trigger(content) if self._syntax.trigger else self._look_at_beginning()

    def _find_trigger(self, content: list[str]) -> bool:
        trigger = self._syntax.trigger
        before, found, after = self._rest.partition(trigger)
        if found:
            if not before.isspace() or self._has_text:
                content.append(before)
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

    def _find_next_call(self) -> bool:
        """Skips what stands between calls; other text ends them."""
        marks = [mark for mark in (self._syntax.trigger, self._syntax.tail.lstrip("}\n"), "[", "]", ",", ";") if mark]
        rest = self._rest.lstrip()
        if not rest or any(mark.startswith(rest) and mark != rest for mark in marks):
            return False
        mark = next((mark for mark in marks if rest.startswith(mark)), None)
        if mark is not None:
            self._rest = rest.removeprefix(mark)
            return True
        if rest.startswith("{") or self._syntax.head == "":
            self._call = _Call(self._syntax)
        else:
            self._in_calls, self._is_text = False, not self._syntax.trigger
        return True

    def _read_call(self, call: _Call, content: list[str], deltas: list[ToolCallDelta]) -> bool:
        self._rest = call.push(self._rest)
        if call.index is None and call.name in self._names and (call.arguments or call.is_whole):
            call.index, self._calls = self._calls, self._calls + 1
            deltas.append(ToolCallDelta(call.index, id=self._new_id(), name=call.name))
        if call.index is not None:
            new = call.take_arguments()
            if new:
                deltas.append(ToolCallDelta(call.index, new))
        if not (call.is_whole or call.is_broken):
            return False
        if call.index is None:
            content.append(call.text)
            self._in_calls, self._is_text = False, True
        self._call = None
        return True

    def _new_id(self) -> str:
        if self._syntax.id_length is None:
            return f"call_{secrets.token_hex(12)}"
        return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(self._syntax.id_length))


class _Call:
    """One call, read character by character.

    Attributes:
        text: what has been read.
        index: its number among the calls, once it is known to be one.
        arguments: their text so far, as far as it has not been taken.
    """

    def __init__(self, syntax: CallSyntax) -> None:
        self.text = ""
        self.index: int | None = None
        self.name: str | None = None
        self.arguments = ""
        self.is_whole = self.is_broken = False
        self._had_arguments = False
        self._key: str | None = None
        self._value: _Value | None = None
        # Where the name stands before the object of arguments, and not in an object with them.
        self._middle = syntax.middle if syntax.head == "" else None

    def push(self, text: str) -> str:
        """Reads on; returns what is behind the call's end."""
        for at, char in enumerate(text):
            if self.is_whole or self.is_broken:
                return text[at:]
            self.text += char
            if self._middle is not None:
                self._read_bare(char)
            elif self._value is not None:
                self._read_value(char)
            else:
                self._read_between(char)
        return ""

    def take_arguments(self) -> str:
        """The arguments that are new; {} of a call without any."""
        new, self.arguments = self.arguments, ""
        self._had_arguments = self._had_arguments or bool(new)
        if self.is_whole and not self._had_arguments:
            return "{}"
        return new

    def _read_bare(self, char: str) -> None:
        if self._value is None:
            name, found, _ = self.text.partition(self._middle or "")
            if char == "{" and not found:
                name, found = self.text[:-1], char
            if found:
                self.name, self._value = name.strip(), _Value()
            if found != char:
                return
        assert self._value is not None
        self._value.push(char)
        self.arguments += char
        self.is_whole = self._value.is_whole

    def _read_between(self, char: str) -> None:
        """Outside of values: a brace, a key's beginning, a comma."""
        if char == '"':
            self._value = _Value()
            self._value.push(char)
        elif char == "}":
            self.is_whole = True
        elif not (char.isspace() or char == "," or (char == "{" and len(self.text.strip()) == 1)):
            self.is_broken = True

    def _read_value(self, char: str) -> None:
        """In a key or a value."""
        value = self._value
        assert value is not None
        if self._key is None and value.is_whole:  # a key: its colon
            if char == ":":
                self._key, self._value = json.loads(value.text), _Value()
            elif not char.isspace():
                self.is_broken = True
            return
        belongs = value.push(char)
        if self._key in _ARGUMENTS and belongs and not value.is_string:
            self.arguments += char if value.text else ""
        if self._key is None or not value.is_whole:
            return
        try:
            self._store(value)
        except ValueError:
            self.is_broken = True
        self._key = self._value = None
        if not belongs:
            self._read_between(char)

    def _store(self, value: _Value) -> None:
        if self._key == "name":
            name = json.loads(value.text)
            self.name = name if isinstance(name, str) else None
        elif self._key in _ARGUMENTS and value.is_string:
            self.arguments = json.loads(value.text)


class _Value:
    """A JSON value, whose end is found character by character."""

    def __init__(self) -> None:
        self.text = ""
        self.is_whole = False
        self._depth = 0
        self._in_string = self._is_escaped = False

    @property
    def is_string(self) -> bool:
        return self.text.startswith('"')

    def push(self, char: str) -> bool:
        """Whether the character belongs to it, or to the space before it."""
        if not self.text and char.isspace():
            return True
        is_scalar = self.text and not self._depth and not self._in_string
        if is_scalar and (char in ",}]" or char.isspace()):
            self.is_whole = True
            return False
        self.text += char
        if self._in_string:
            self._in_string = self._is_escaped or char != '"'
            self._is_escaped = char == "\\" and not self._is_escaped
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
        self.is_whole = not self._depth and not self._in_string and char in '"}]'
        return True


def _overlap(text: str, mark: str) -> int:
    """The length of the longest end of the text that the mark begins with."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-n:])), 0)
