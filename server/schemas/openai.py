"""Bodies of the routes that OpenAI's SDKs call."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from server.chat_request import ChatRequest
from server.errors import InvalidRequest
from server.schemas.base import Body, SamplingFields, StopString

TokenIds = Annotated[list[int], Field(min_length=1)]


class StreamOptions(Body):
    include_usage: bool = False


class OpenAIFields(SamplingFields):
    """What chat and plain completions share. `user` goes to the access log; n may only be 1."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=4)] | None = None
    n: Literal[1] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None

    @model_validator(mode="after")
    def _only_streams_have_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "'stream_options' is only for streams; set stream to true, or leave it out.", param="stream_options"
            )
        return self

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    def for_template(self) -> dict[str, str]:
        """As chat templates expect it: text as one string, and the older name of the developer's role."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatBody(OpenAIFields):
    """POST /v1/chat/completions."""

    field_names: ClassVar = {"prompt": "messages", "max_new_tokens": "max_tokens"}
    unsupported: ClassVar = frozenset(
        {"function_call", "functions", "parallel_tool_calls", "tool_choice", "tools", "web_search_options"}
        | {"audio", "logprobs", "modalities", "prediction", "response_format", "top_logprobs"}
        | {"moderation", "reasoning_effort", "safety_identifier", "service_tier", "verbosity"}
        | {"metadata", "prompt_cache_key", "prompt_cache_retention", "store"}
        | {"include_obfuscation"}  # of stream_options
        | {"annotations", "name", "refusal", "tool_call_id", "tool_calls"}  # of messages
    )

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool = False  # the chat template writes them

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    def chat(self) -> ChatRequest:
        return ChatRequest(messages=[message.for_template() for message in self.messages])

    def sampling(self) -> dict[str, Any]:
        """As documented, presence_penalty acts as a repetition penalty, unless that one is given itself."""
        p = self.presence_penalty
        mapped = 1 + p if p >= 0 else 1 / (1 - p)
        return {
            **super().sampling(),
            "presence_penalty": 0.0,
            "repetition_penalty": mapped if self.repetition_penalty is None else self.repetition_penalty,
        }


class CompletionBody(OpenAIFields):
    """POST /v1/completions."""

    field_names: ClassVar = {"max_new_tokens": "max_tokens"}
    unsupported: ClassVar = frozenset({"best_of", "echo", "include_obfuscation", "logprobs", "suffix"})

    prompt: str | TokenIds | Annotated[list[str] | list[TokenIds], Field(min_length=1, max_length=32)]

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """One entry per choice."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [token for token in self.prompt if isinstance(token, int)]
        return [ids] if ids else cast("list[str] | list[list[int]]", self.prompt)
