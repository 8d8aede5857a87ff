"""The chat format of a model: how a conversation becomes a prompt, and where an answer begins and ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_jax.errors import RequestError
from llm_jax.tokenizers import (
    CallSyntax,
    Tokenizer,
    answer_bounds,
    call_syntax,
    describe_tools,
    render_chat,
    renders_tools,
)
from server.chat.chat_request import ChatRequest
from server.chat.tool_parser import ToolCallParser
from server.http.errors import InvalidRequest


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer's chat template.

    Attributes:
        calls: how the model writes tool calls.
        stop: strings that end an answer beside the end-of-text token.
        prefix: what stands before an answer's first word and is not part of it.
    """

    tokenizer: Tokenizer
    calls: CallSyntax
    stop: tuple[str, ...] = ()
    prefix: str = ""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> ChatFormat:
        return cls(tokenizer, call_syntax(tokenizer), *answer_bounds(tokenizer))

    def render(self, chat: ChatRequest) -> str:
        """The prompt.

        Raises:
            InvalidRequest: the template refuses these messages.
        """
        if chat.begins_last:
            chat = replace(chat, messages=chat.messages[:-1], continue_final=False, add_generation_prompt=True)
        messages: Any = [self._with_short_ids(message) for message in chat.messages]
        tools = [tool.for_template() for tool in chat.tools] if chat.tool_choice.mode != "none" else []
        if not renders_tools(self.tokenizer):
            messages, tools = describe_tools(messages, tools), []
        try:
            prompt = render_chat(
                self.tokenizer,
                messages,
                tools=tools or None,
                add_generation_prompt=chat.add_generation_prompt,
                **chat.variables,
            )
        except RequestError as error:
            raise InvalidRequest(str(error), param=error.param, code="invalid_value") from None
        return _cut_behind(prompt, str(messages[-1]["content"])) if chat.continue_final else prompt

    def parser(self, chat: ChatRequest) -> ToolCallParser | None:
        """What finds the calls in an answer; None where there can be none."""
        names = [tool.name for tool in chat.callable_tools]
        return ToolCallParser(self.calls, names) if names else None

    def shown(self, chat: ChatRequest) -> dict[int, str]:
        """The special tokens that calls are made of, which are text to the parser."""
        marks = (self.calls.trigger, self.calls.middle, self.calls.tail.strip("}\n")) if chat.callable_tools else ()
        hidden = self.tokenizer.hidden_tokens
        return {hidden[mark]: mark for mark in marks if mark in hidden}

    def _with_short_ids(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """With ids of calls as long as the template wants them, whichever server has made them."""
        length = self.calls.id_length
        if length is None:
            return message

        def shorten(call_id: str) -> str:
            return re.sub(r"[^a-zA-Z0-9]", "", call_id)[-length:].rjust(length, "0")

        changed = dict(message)
        if "tool_call_id" in message:
            changed["tool_call_id"] = shorten(message["tool_call_id"])
        if "tool_calls" in message:
            changed["tool_calls"] = [{**call, "id": shorten(call["id"])} for call in message["tool_calls"]]
        return changed


def _cut_behind(prompt: str, last: str) -> str:
    """The prompt up to the end of its last message, which an answer goes on with."""
    at = prompt.rfind(last.strip())
    if at < 0:
        raise InvalidRequest(
            "'continue_final_message' is not possible: the chat template does not write the last message as it is.",
            param="continue_final_message",
            code="invalid_value",
        )
    whole = last.lstrip()
    return prompt[: at + len(whole if prompt.startswith(whole, at) else last.strip())]
