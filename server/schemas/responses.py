"""The body of /v1/responses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from server.chat.chat_request import ChatRequest, OutputFormat, Tool
from server.http.errors import InvalidRequest
from server.schemas.base import Body, Off
from server.schemas.messages import TemplateVariables
from server.schemas.openai import Alternatives
from server.schemas.response_items import Item, Items, MessageItem, messages_of
from server.schemas.sampling import Count, SamplingFields
from server.schemas.tools import (
    AllowedTools,
    AllowedToolsChoice,
    FunctionName,
    FunctionReference,
    NamedTool,
    ToolChoiceField,
    tool_choice,
)

LOGPROBS = "message.output_text.logprobs"


class TextFormat(Body):
    type: Literal["text"]


class JsonObjectFormat(Body):
    type: Literal["json_object"]


class JsonSchemaFormat(Body):
    type: Literal["json_schema"]
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool = False  # the schema always holds


class TextSettings(Body):
    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] = TextFormat(
        type="text"
    )
    verbosity: Literal["medium"] = "medium"


class FlatTool(Body):
    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = True  # arguments always follow the schema
    defer_loading: Off = False

    def as_tool(self) -> Tool:
        return Tool(self.name, self.description, self.parameters or Tool.NO_PARAMETERS)


class FlatNamedTool(Body):
    type: Literal["function"]
    name: str

    def nested(self) -> NamedTool:
        return NamedTool(type="function", function=FunctionReference(name=self.name))


class FlatAllowedTools(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FlatNamedTool], Field(min_length=1)]


class Reasoning(Body):
    """`effort` is handed to the chat template; there is no summary to choose."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class ResponseStreamOptions(Body):
    include_obfuscation: bool = False


class ResponseBody(SamplingFields):
    """POST /v1/responses. Nothing is stored: the whole conversation is in `input`."""

    field_names: ClassVar = {
        "prompt": "input", "max_new_tokens": "max_output_tokens", "min_new_tokens": "min_tokens",
        "json_schema": "text.format",
    }  # fmt: skip
    unsupported: ClassVar = frozenset(
        {"previous_response_id", "conversation", "prompt", "max_tool_calls", "moderation", "context_management"}
        | {"prompt_cache_options", "prompt_cache_retention", "background_options", "access_programs", "image"}
    )

    model: str | None = None
    input: str | Items
    instructions: str | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    text: TextSettings = TextSettings()
    tools: Annotated[list[FlatTool], Field(max_length=128)] | None = None
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[FlatNamedTool | FlatAllowedTools, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool = True
    reasoning: Reasoning = Reasoning()
    top_logprobs: Alternatives = 0
    include: list[str] | None = None
    stream: bool = False
    stream_options: ResponseStreamOptions | None = None
    chat_template_kwargs: TemplateVariables | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] = "auto"
    truncation: Literal["disabled"] = "disabled"
    background: Off = False
    store: Off = False
    add_special_tokens: bool = False  # the chat template writes them

    @field_validator("store", mode="before")
    @classmethod
    def _stores_nothing(cls, value: Any) -> Any:
        if value is True:
            raise InvalidRequest(
                "'store' is true, and this server stores no responses; set it to false, and send the whole "
                "conversation in 'input'.",
                param="store",
                code="unsupported_parameter",
            )
        return value

    @property
    def token_limit(self) -> int | None:
        return self.max_output_tokens

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if LOGPROBS in (self.include or ()) else None

    @property
    def cache_key(self) -> str:
        return self.prompt_cache_key or ""

    @property
    def output(self) -> OutputFormat | None:
        match self.text.format:
            case JsonSchemaFormat(schema_=schema):
                return OutputFormat("json_schema", schema)
            case JsonObjectFormat():
                return OutputFormat("json_object")
        return None

    @property
    def output_field(self) -> str:
        return "text.format"

    @property
    def log_fields(self) -> dict[str, Any]:
        """What of the body goes to the access log."""
        fields = {name: getattr(self, name) for name in ("user", "safety_identifier", "metadata")}
        return {name: value for name, value in fields.items() if value}

    def chat(self) -> ChatRequest:
        items: list[Item] = [] if self.instructions is None else [MessageItem(role="system", content=self.instructions)]
        items += [MessageItem(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        messages = messages_of(items)
        tools = [tool.as_tool() for tool in self.tools or ()]
        variables = dict(self.chat_template_kwargs or {})
        if self.reasoning.effort is not None:
            variables.setdefault("reasoning_effort", self.reasoning.effort)
        return ChatRequest(
            messages=messages,
            tools=tools,
            tool_choice=tool_choice(self._nested_choice(), tools, parallel=self.parallel_tool_calls),
            variables=variables,
        )

    def _nested_choice(self) -> ToolChoiceField | None:
        """As chat completions have it."""
        match self.tool_choice:
            case FlatNamedTool() as tool:
                return tool.nested()
            case FlatAllowedTools() as allowed:
                tools = AllowedTools(mode=allowed.mode, tools=[tool.nested() for tool in allowed.tools])
                return AllowedToolsChoice(type="allowed_tools", allowed_tools=tools)
            case choice:
                return choice
