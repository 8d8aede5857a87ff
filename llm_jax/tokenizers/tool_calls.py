"""How families of models write tool calls, recognised by their chat templates."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_jax.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class CallSyntax:
    """The text of tool calls: trigger, opening, call, separator, call, …, closing.

    A call is head, name, middle, arguments in JSON, tail. What is not given is empty.

    Attributes:
        trigger: begins the calls. Where it is empty, an answer that begins with { is calls.
        is_lone: whether an answer has one call at most: the templates of the family refuse several.
        id_length: how long the templates of this family want the ids of calls; None is any length.
    """

    trigger: str = ""
    opening: str = ""
    head: str
    middle: str
    tail: str = ""
    separator: str
    closing: str = ""
    is_lone: bool = False
    id_length: int | None = None

    def write(self, calls: Sequence[tuple[str, Any]]) -> str:
        """The text of calls, as (name, arguments)."""
        texts = [
            f"{self.head}{name}{self.middle}{json.dumps(arguments, ensure_ascii=False)}{self.tail}"
            for name, arguments in calls
        ]
        return f"{self.trigger}{self.opening}{self.separator.join(texts)}{self.closing}"


HERMES = CallSyntax(
    trigger="<tool_call>",
    head='\n{"name": "',
    middle='", "arguments": ',
    tail="}\n</tool_call>",
    separator="\n<tool_call>",
)
LLAMA = CallSyntax(head='{"name": "', middle='", "parameters": ', tail="}", separator="; ", is_lone=True)
MISTRAL = CallSyntax(
    trigger="[TOOL_CALLS]",
    opening="[",
    head='{"name": "',
    middle='", "arguments": ',
    tail="}",
    separator=", ",
    closing="]",
    id_length=9,
)
MISTRAL_ARGS = CallSyntax(
    trigger="[TOOL_CALLS]", head="", middle="[ARGS]", separator="[TOOL_CALLS]", id_length=9
)  # from 2025 on
PLAIN = CallSyntax(head='{"name": "', middle='", "arguments": ', tail="}", separator="\n")

_INSTRUCTIONS = """\
You may call functions. To call one, answer with nothing but a JSON object of the form \
{"name": <name of the function>, "arguments": <object of its arguments>}; several calls stand on lines of their own. \
The functions, as JSON:
"""


def call_syntax(tokenizer: Tokenizer) -> CallSyntax:
    """The syntax that the tokenizer's chat template writes calls in; PLAIN where it has none that is known."""
    text = _template_text(tokenizer)
    if "[TOOL_CALLS]" in text:
        return MISTRAL_ARGS if "[ARGS]" in text else MISTRAL
    if "<tool_call>" in text and "<function=" not in text:
        return HERMES
    if "<|start_header_id|>" in text and '"parameters": ' in text:
        return LLAMA
    return PLAIN


def renders_tools(tokenizer: Tokenizer) -> bool:
    """Whether the chat template describes tools to the model, and writes calls in a syntax that is known."""
    return call_syntax(tokenizer) is not PLAIN and re.search(r"\btools\b", _template_text(tokenizer)) is not None


def _template_text(tokenizer: Tokenizer) -> str:
    template = tokenizer.chat_template
    return template if isinstance(template, str) else "\n".join((template or {}).values())


def describe_tools(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages for a template that knows no tools: they are described in a system message, and calls are text."""
    described = [_as_text(message) for message in messages]
    if tools:
        functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        if not described or described[0]["role"] != "system":
            described.insert(0, {"role": "system", "content": ""})
        described[0]["content"] = f"{described[0]['content']}\n\n{_INSTRUCTIONS}{functions}".lstrip("\n")
    merged: list[dict[str, Any]] = []
    for message in described:  # templates that know no tools often want users and assistants in turn
        if merged and message["role"] == "user" == merged[-1]["role"]:
            merged[-1]["content"] += f"\n{message['content']}"
        else:
            merged.append(message)
    return merged


def _as_text(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in message.items() if name not in ("tool_calls", "tool_call_id")}
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result of the call: {message['content']}"}
    if calls := message.get("tool_calls"):
        text = PLAIN.write([(call["function"]["name"], call["function"]["arguments"]) for call in calls])
        plain["content"] = f"{plain['content']}\n{text}".lstrip("\n")
    return plain
