"""Messages of a conversation as they lie in a dataset -> as chat templates read them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_jax.errors import DataError

SHAREGPT_ROLES = {
    "system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "chatgpt": "assistant", "model": "assistant", "tool": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    """Messages for a chat template.

    Attributes:
        messages: dicts with role and content, and what else the template may read.
        tools: function schemas.
        given: how many of the messages are the prompt, of which nothing is learnt.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    given: int = 0


class FieldError(DataError):
    """A field of a record is not what it has to be; the reader adds the file and the line."""


def read_messages(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """`[{"role": …, "content": …}, …]`, checked.

    Tool calls lose their JSON text: templates want objects. Entries that are null go: Parquet has one for each key that
    another message has.

    Raises:
        FieldError: with the path of the entry.
    """
    messages = _list_of_objects(value, field)
    if not messages:
        raise FieldError(f"{field} is empty; a conversation needs a message.")
    return tuple(_read_message(message, f"{field}[{i}]") for i, message in enumerate(messages))


def read_sharegpt(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """`[{"from": "human", "value": …}, …]` as messages; entries with a role and content are taken as they are.

    Raises:
        FieldError: with the path of the entry.
    """
    turns = []
    for i, turn in enumerate(_list_of_objects(value, field)):
        where = f"{field}[{i}]"
        if "from" in turn:
            speaker = turn["from"]
            if speaker not in SHAREGPT_ROLES:
                raise FieldError(f"{where}.from is {speaker!r}; it must be one of {', '.join(SHAREGPT_ROLES)}.")
            if not isinstance(turn.get("value"), str):
                raise FieldError(f"{where}.value is {turn.get('value')!r}; it must be text.")
            turn = {"role": SHAREGPT_ROLES[speaker], "content": turn["value"]}
        turns.append(turn)
    return read_messages(turns, field)


def read_tools(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """Function schemas, also as JSON text or without the object around each; () of null.

    Raises:
        FieldError: with the path of the entry.
    """
    if value is None or value == "":
        return ()
    tools = []
    for i, tool in enumerate(_list_of_objects(_parsed(value, field), field)):
        tool = tool if "function" in tool else {"type": "function", "function": tool}
        if not isinstance(tool["function"], dict) or not isinstance(tool["function"].get("name"), str):
            raise FieldError(f"{field}[{i}] has no name; a tool is a function schema with name and parameters.")
        tools.append({"type": "function", **tool})
    return tuple(tools)


def _read_message(message: dict[str, Any], where: str) -> dict[str, Any]:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise FieldError(f"{where}.role is {role!r}; it must be text, such as user or assistant.")
    calls = message.get("tool_calls")
    if isinstance(content, list):
        content = "".join(_read_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise FieldError(f"{where}.content is {content!r}; it must be text.")
    read = {**message, "content": content}
    if calls:
        read["tool_calls"] = [
            _read_call(call, f"{where}.tool_calls[{i}]")
            for i, call in enumerate(_list_of_objects(calls, f"{where}.tool_calls"))
        ]
    return read


def _read_part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None
    if not isinstance(text, str):
        raise FieldError(f'{where} is {part!r}; models here read text alone: {{"type": "text", "text": …}}.')
    return text


def _read_call(call: dict[str, Any], where: str) -> dict[str, Any]:
    call = call if "function" in call else {"function": call}
    function = call["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise FieldError(f"{where} has no name; a call is an object with name and arguments.")
    arguments = _parsed(function.get("arguments") or {}, f"{where}.arguments")
    if not isinstance(arguments, dict):
        raise FieldError(f"{where}.arguments is {arguments!r}; it must be an object.")
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _list_of_objects(value: Any, field: str) -> list[dict[str, Any]]:
    if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
        value = [dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)]  # stored by columns
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise FieldError(f"{field} is {_shown(value)}; it must be a list of objects.")
    for i, entry in enumerate(value):
        if not isinstance(entry, Mapping):
            raise FieldError(f"{field}[{i}] is {_shown(entry)}; it must be an object.")
    return [_without_nulls(entry) for entry in value]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nulls(entry) for name, entry in value.items() if entry is not None}
    return [_without_nulls(entry) for entry in value] if isinstance(value, list) else value


def _parsed(value: Any, field: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise FieldError(f"{field} is not JSON: {error}.") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
