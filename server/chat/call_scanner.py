"""One tool call, read character by character."""

from __future__ import annotations

import json

from llm_jax.tokenizers import CallSyntax

_ARGUMENTS = ("arguments", "parameters")


class CallScanner:
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
        self._value: _JsonValue | None = None
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
                self.name, self._value = name.strip(), _JsonValue()
            if found != char:
                return
        assert self._value is not None
        self._value.push(char)
        self.arguments += char
        self.is_whole = self._value.is_whole

    def _read_between(self, char: str) -> None:
        """Outside of values: a brace, a key's beginning, a comma."""
        if char == '"':
            self._value = _JsonValue()
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
                self._key, self._value = json.loads(value.text), _JsonValue()
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

    def _store(self, value: _JsonValue) -> None:
        if self._key == "name":
            name = json.loads(value.text)
            self.name = name if isinstance(name, str) else None
        elif self._key in _ARGUMENTS and value.is_string:
            self.arguments = json.loads(value.text)


class _JsonValue:
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
