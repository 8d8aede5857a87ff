"""What a chat is asked for, in no wire format: the bodies of chat completions, responses and messages become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Tool:
    """A function that the model may call.

    Attributes:
        parameters: JSON schema of its arguments, an object.
    """

    NO_PARAMETERS: ClassVar[Mapping[str, Any]] = {"type": "object", "properties": {}}

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=lambda: Tool.NO_PARAMETERS)

    def for_template(self) -> dict[str, Any]:
        """As chat templates expect it."""
        function = {"name": self.name, "description": self.description or "", "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolChoice:
    """Which tools may be called, and whether one must be.

    Attributes:
        mode: "auto" leaves it to the model.
        names: the tools that may be called; None is all of them.
        parallel: whether there may be several calls.
    """

    mode: Literal["none", "auto", "required"] = "auto"
    names: tuple[str, ...] | None = None
    parallel: bool = True


@dataclass(frozen=True)
class OutputFormat:
    """What a text is held to.

    Attributes:
        value: a JSON schema, a regular expression, a list of texts, a Lark grammar; None for "json_object".
    """

    kind: Literal["json_object", "json_schema", "regex", "choice", "grammar"]
    value: Any = None


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """A conversation to be answered.

    Attributes:
        messages: as chat templates expect them: dicts with "role", "content" (a string), and "tool_calls" of an
            assistant, whose "arguments" are objects; "name" and "tool_call_id" of a tool's answer.
        variables: further variables of the chat template.
        continue_final: go on with the last message instead of answering it, unless that is empty (`begins_last`).
        echo: an answer that goes on with the last message begins with it.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Tool] = ()
    tool_choice: ToolChoice = ToolChoice()
    variables: Mapping[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final: bool = False
    echo: bool = False

    @property
    def echoed(self) -> str:
        """What an answer begins with: the last message, where it is asked for and is an assistant's."""
        last = self.messages[-1]
        return str(last["content"]) if self.echo and last["role"] == "assistant" else ""

    @property
    def begins_last(self) -> bool:
        """Whether the answer is to go on with a message of the assistant that is empty: then it begins as any other."""
        last = self.messages[-1]
        is_empty = last["role"] == "assistant" and not last["content"].strip() and not last.get("tool_calls")
        return self.continue_final and is_empty

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that may be called in this answer."""
        if self.tool_choice.mode == "none":
            return []
        names = self.tool_choice.names
        return [tool for tool in self.tools if names is None or tool.name in names]
