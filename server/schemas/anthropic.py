"""Bodies of Anthropic's /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from server.chat.chat_request import ChatRequest, OutputFormat, Tool, ToolChoice
from server.http.errors import CONFLICT, InvalidRequest
from server.schemas.base import Body, Off
from server.schemas.sampling import Count, SamplingFields
from server.schemas.tools import FunctionName


class Block(Body):
    """A part of a message. `cache_control` and `citations` are accepted; prompts that begin alike are always cached."""

    cache_control: dict[str, Any] | None = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: Any = None


class ThinkingBlock(Block):
    """Thoughts of an earlier answer; they are left out of the prompt."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: str = ""
    signature: str = ""
    data: str = ""


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: Any = None

    def for_template(self) -> dict[str, Any]:
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.input}}


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] = ""
    is_error: bool = False


UserContent = str | list[Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]]
AssistantContent = str | list[Annotated[TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")]]


class UserTurn(Body):
    role: Literal["user"]
    content: UserContent


class AssistantTurn(Body):
    role: Literal["assistant"]
    content: AssistantContent


class SystemTurn(Body):
    role: Literal["system"]
    content: str | list[TextBlock]


Turn = Annotated[UserTurn | AssistantTurn | SystemTurn, Field(discriminator="role")]


class CustomTool(Block):
    type: Literal["custom"] = "custom"
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool = False  # arguments always follow the schema
    input_examples: list[dict[str, Any]] | None = None
    eager_input_streaming: bool = True
    defer_loading: Off = False
    allowed_callers: list[Literal["direct"]] | None = None


class AnyToolChoice(Body):
    type: Literal["auto", "any", "none"]
    disable_parallel_tool_use: bool = False


class NamedToolChoice(Body):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool = False


MessagesToolChoice = Annotated[AnyToolChoice | NamedToolChoice, Field(discriminator="type")]


class Thinking(Body):
    """How much a model may think is up to its chat template: an effort may be handed to it."""

    type: Literal["disabled", "adaptive"]
    display: str | None = None


class JsonFormat(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    effort: str | None = None
    format: JsonFormat | None = None


class Metadata(Body):
    user_id: str | None = None


class CountTokensBody(Body):
    """POST /v1/messages/count_tokens."""

    unsupported: ClassVar = frozenset({"mcp_servers", "container", "context_management", "speed", "prefill"})

    model: str | None = None
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[CustomTool], Field(max_length=128)] | None = None
    tool_choice: MessagesToolChoice = AnyToolChoice(type="auto")
    thinking: Thinking | None = None
    output_config: OutputConfig = OutputConfig()
    cache_control: dict[str, Any] | None = None

    def chat(self) -> ChatRequest:
        system = [] if self.system is None else [{"role": "system", "content": _text(self.system)}]
        names: dict[str, str] = {}
        turns = [message for turn in self.messages for message in _messages(turn, names)]
        variables = {} if self.output_config.effort is None else {"reasoning_effort": self.output_config.effort}
        return ChatRequest(
            messages=system + turns,
            tools=[Tool(tool.name, tool.description, tool.input_schema) for tool in self.tools or ()],
            tool_choice=self._tool_choice(),
            variables=variables,
            continue_final=turns[-1]["role"] == "assistant" and not turns[-1].get("tool_calls"),
        )

    def _tool_choice(self) -> ToolChoice:
        choice, parallel = self.tool_choice, not self.tool_choice.disable_parallel_tool_use
        known = [tool.name for tool in self.tools or ()]
        if isinstance(choice, NamedToolChoice):
            if choice.name not in known:
                raise InvalidRequest(
                    f"'tool_choice' names the tool {choice.name[:80]!r}; 'tools' has "
                    f"{', '.join(map(repr, known)) or 'none'}.",
                    param="tool_choice",
                    code=CONFLICT,
                )
            return ToolChoice("required", (choice.name,), parallel=False)
        if choice.type == "any" and not known:
            raise InvalidRequest(
                "'tool_choice' requires a call, and 'tools' has no tool.", param="tool_choice", code=CONFLICT
            )
        mode: Literal["required", "none", "auto"] = "required" if choice.type == "any" else choice.type
        return ToolChoice(mode, parallel=parallel)


class MessagesBody(CountTokensBody, SamplingFields):
    """POST /v1/messages."""

    field_names: ClassVar = {
        "prompt": "messages", "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens",
        "json_schema": "output_config.format",
    }  # fmt: skip

    max_tokens: Count
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    stream: bool = False
    metadata: Metadata = Metadata()
    service_tier: Literal["auto", "standard_only"] = "auto"
    inference_geo: str | None = None
    add_special_tokens: bool = False  # the chat template writes them

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (*super().stop_strings, *filter(None, self.stop_sequences or ()))

    @property
    def output(self) -> OutputFormat | None:
        form = self.output_config.format
        return None if form is None else OutputFormat("json_schema", form.schema_)

    @property
    def output_field(self) -> str:
        return "output_config.format"


def _messages(turn: Turn, names: dict[str, str]) -> Iterator[dict[str, Any]]:
    """As chat templates expect them: what tools gave is a message each. `names` has those of the calls so far."""
    if isinstance(turn, AssistantTurn) and not isinstance(turn.content, str):
        calls = [block for block in turn.content if isinstance(block, ToolUseBlock)]
        names.update({call.id: call.name for call in calls})
        message: dict[str, Any] = {"role": "assistant", "content": _text(turn.content)}
        yield message | ({"tool_calls": [call.for_template() for call in calls]} if calls else {})
        return
    if isinstance(turn, UserTurn) and not isinstance(turn.content, str):
        for block in turn.content:
            if isinstance(block, ToolResultBlock):
                result = {"role": "tool", "content": _text(block.content), "tool_call_id": block.tool_use_id}
                name = names.get(block.tool_use_id)
                yield result if name is None else {**result, "name": name}
        if all(isinstance(block, ToolResultBlock) for block in turn.content) and turn.content:
            return
    yield {"role": turn.role, "content": _text(turn.content)}


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.text for block in content if isinstance(block, TextBlock))
