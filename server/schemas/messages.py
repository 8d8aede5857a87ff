"""Chat messages, as OpenAI's clients send them, and as they replay the answers of this and of other servers."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from server.http.errors import InvalidRequest
from server.schemas.base import Body

RESERVED_VARIABLES = ("add_generation_prompt", "documents", "messages", "tools")
UNREADABLE = ("image_url", "input_image", "input_audio", "audio_url", "video_url", "file", "input_file")


def _are_free(variables: dict[str, Any]) -> dict[str, Any]:
    for name in RESERVED_VARIABLES:
        if name in variables:
            raise InvalidRequest(
                f"'chat_template_kwargs' cannot set {name!r}; use the field of that name.",
                param=f"chat_template_kwargs.{name}",
            )
    return variables


TemplateVariables = Annotated[
    dict[str, Any],
    AfterValidator(_are_free),
    Field(json_schema_extra={"propertyNames": {"not": {"enum": list(RESERVED_VARIABLES)}}}),
]


class ContentPart(Body):
    """A part of a message: text. The other kinds are refused by name."""

    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if value in UNREADABLE:
            raise PydanticCustomError("unsupported_part", "this model reads text only; leave the part out")
        return value

    def as_text(self) -> str:
        return self.text or self.refusal


Content = str | list[ContentPart]


class FunctionCall(Body):
    name: str
    arguments: str = "{}"


class ToolCallEntry(Body):
    """A call in an assistant's message."""

    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionCall
    index: int | None = None  # of a delta that was replayed as it came

    def for_template(self) -> dict[str, Any]:
        """Templates expect the arguments as an object; what does not parse, such as a call that was cut, stays text."""
        try:
            arguments = json.loads(self.function.arguments or "{}")
        except ValueError:
            arguments = self.function.arguments
        return {"id": self.id, "type": "function", "function": {"name": self.function.name, "arguments": arguments}}


class SystemMessage(Body):
    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Body):
    role: Literal["user"]
    content: Content
    name: str | None = None


class AssistantMessage(Body):
    """An answer; what of it is of no use to a model is accepted and left out."""

    role: Literal["assistant"]
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallEntry] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: list[Any] | None = None
    provider_specific_fields: dict[str, Any] | None = None


class ToolMessage(Body):
    role: Literal["tool"]
    content: Content
    tool_call_id: str | None = None
    name: str | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]


def for_template(message: Message) -> dict[str, Any]:
    """As chat templates expect it: text as one string, and the older name of the developer's role."""
    rendered: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": as_text(message.content),
    }
    if message.name is not None:
        rendered["name"] = message.name
    if isinstance(message, AssistantMessage):
        if message.tool_calls:
            rendered["tool_calls"] = [call.for_template() for call in message.tool_calls]
        rendered["content"] = rendered["content"] or message.refusal or ""
        if reasoning := message.reasoning_content or message.reasoning:
            rendered["reasoning_content"] = reasoning
    if isinstance(message, ToolMessage) and message.tool_call_id is not None:
        rendered["tool_call_id"] = message.tool_call_id
    return rendered


def as_text(content: Content | None) -> str:
    return content or "" if not isinstance(content, list) else "".join(part.as_text() for part in content)
