"""Tools and the choice among them, as OpenAI's chat API has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from server.chat.chat_request import Tool, ToolChoice
from server.http.errors import CONFLICT, InvalidRequest
from server.schemas.base import Body

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class Function(Body):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False  # arguments always follow the schema


class FunctionTool(Body):
    type: Literal["function"]
    function: Function

    def as_tool(self) -> Tool:
        function = self.function
        return Tool(function.name, function.description, function.parameters or Tool.NO_PARAMETERS)


class FunctionReference(Body):
    name: str


class NamedTool(Body):
    """One tool, which has to be called."""

    type: Literal["function"]
    function: FunctionReference


class AllowedTools(Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedToolsChoice(Body):
    """Some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceField = (
    Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedToolsChoice, Field(discriminator="type")]
)


def tool_choice(choice: ToolChoiceField | None, tools: list[Tool], *, parallel: bool) -> ToolChoice:
    """The choice among these tools.

    Raises:
        InvalidRequest: it names a tool that is none of them, or requires one where there are none.
    """
    if isinstance(choice, NamedTool):
        result = ToolChoice("required", (choice.function.name,), parallel=False)
    elif isinstance(choice, AllowedToolsChoice):
        allowed = choice.allowed_tools
        result = ToolChoice(allowed.mode, tuple(tool.function.name for tool in allowed.tools), parallel=parallel)
    else:
        result = ToolChoice(choice or "auto", parallel=parallel)
    known = [tool.name for tool in tools]
    unknown = next((name for name in result.names or () if name not in known), None)
    if unknown is not None:
        raise InvalidRequest(
            f"'tool_choice' names the tool {unknown[:80]!r}; 'tools' has {', '.join(map(repr, known)) or 'none'}.",
            param="tool_choice",
            code=CONFLICT,
        )
    if result.mode == "required" and not tools:
        raise InvalidRequest(
            "'tool_choice' requires a call, and 'tools' has no tool.", param="tool_choice", code=CONFLICT
        )
    return result
