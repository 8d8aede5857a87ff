"""The items of a response's input: messages, calls of tools and what they gave, as clients send and replay them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from server.schemas.base import Body
from server.schemas.messages import FunctionCall, ToolCallEntry

UNREADABLE = ("input_image", "input_file", "input_audio", "computer_screenshot")


class Part(Body):
    """A part of a message: text. The other kinds are refused by name."""

    type: Literal["input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"]
    text: str = ""
    refusal: str = ""
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    prompt_cache_breakpoint: Any = None

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if value in UNREADABLE:
            raise PydanticCustomError("unsupported_part", "this model reads text only; leave the part out")
        return value


Content = str | list[Part]


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None
    namespace: None = None
    caller: Any = None


class FunctionCallOutputItem(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: Content
    id: str | None = None
    status: str | None = None
    caller: Any = None


class ReasoningItem(Body):
    """Reasoning of an earlier answer; it is left out of the prompt."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[Part] | None = None
    content: list[Part] | None = None
    encrypted_content: str | None = None
    status: str | None = None


def _type_of(item: Any) -> str | None:
    """A message may leave out its type."""
    if isinstance(item, dict):
        return str(item.get("type") or "message")
    return str(getattr(item, "type", None))


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _type_of,
        custom_error_type="unsupported_item",
        custom_error_message="an item is a message, a function_call, a function_call_output or reasoning; "
        "nothing is stored here that another kind could refer to",
    ),
]


def _is_more_than_reasoning(items: list[Any]) -> list[Any]:
    if all(isinstance(item, ReasoningItem) for item in items):
        raise PydanticCustomError("reasoning_alone", "it has reasoning alone; give a message")
    return items


REASONING = {"required": ["type"], "properties": {"type": {"const": "reasoning"}}}
Items = Annotated[
    list[Item],
    Field(min_length=1, json_schema_extra={"contains": {"not": REASONING}}),
    AfterValidator(_is_more_than_reasoning),
]


def messages_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """As chat templates expect them: calls belong to the assistant's message before them."""
    messages: list[dict[str, Any]] = []
    names: dict[str, str] = {}  # of the tools, by the id of a call
    for item in items:
        match item:
            case MessageItem():
                role = "system" if item.role == "developer" else item.role
                messages.append({"role": role, "content": _text(item.content)})
            case FunctionCallItem():
                if not messages or messages[-1]["role"] != "assistant":
                    messages.append({"role": "assistant", "content": ""})
                call = ToolCallEntry(id=item.call_id, function=FunctionCall(name=item.name, arguments=item.arguments))
                messages[-1].setdefault("tool_calls", []).append(call.for_template())
                names[item.call_id] = item.name
            case FunctionCallOutputItem():
                message = {"role": "tool", "content": _text(item.output), "tool_call_id": item.call_id}
                name = names.get(item.call_id)
                messages.append(message if name is None else {**message, "name": name})
    return messages


def _text(content: Content) -> str:
    return content if isinstance(content, str) else "".join(part.text or part.refusal for part in content)
