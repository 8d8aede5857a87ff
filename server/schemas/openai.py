"""Bodies of the routes that OpenAI's SDKs call."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from server.chat.chat_request import ChatRequest
from server.http.errors import CONFLICT, InvalidRequest
from server.schemas.base import Body, Off, refusal
from server.schemas.messages import Message, TemplateVariables, for_template
from server.schemas.output import UNSUPPORTED, StructuredFields
from server.schemas.prompts import NamesEntries, TokenIds, as_prompts
from server.schemas.sampling import BOUNDED, MAX_CHOICES, Count
from server.schemas.tools import FunctionTool, ToolChoiceField, tool_choice

MAX_PROMPTS = 32
MAX_ALTERNATIVES = 20
MAX_METADATA = 16  # pairs, as OpenAI takes them

Alternatives = Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)]


class StreamOptions(Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False


class OpenAIFields(StructuredFields):
    """What chat and plain completions share. `user`, `safety_identifier` and `metadata` go to the access log."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    echo: bool = False
    prompt_logprobs: Alternatives | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA)] | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] = "auto"
    store: Off = False

    @model_validator(mode="after")
    def _check_stream(self) -> Self:
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidRequest(
                "'prompt_logprobs' is not reported in streams; set stream to false, or leave it out.",
                param="prompt_logprobs",
                code=CONFLICT,
            )
        return self

    @property
    def choices(self) -> int:
        return self.n

    @property
    def prompt_alternatives(self) -> int | None:
        return self.prompt_logprobs

    @property
    def cache_key(self) -> str:
        return self.prompt_cache_key or ""

    @property
    def log_fields(self) -> dict[str, Any]:
        """What of the body goes to the access log."""
        fields = {name: getattr(self, name) for name in ("user", "safety_identifier", "metadata")}
        return {name: value for name, value in fields.items() if value}


class ChatBody(OpenAIFields):
    """POST /v1/chat/completions."""

    field_names: ClassVar = {"prompt": "messages", "max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
    unsupported: ClassVar = frozenset(
        {"function_call", "functions", "web_search_options", "audio", "prediction", "moderation"}
        | {"prompt_cache_retention", "chat_template", "documents", "cache_salt", "mm_processor_kwargs"}
        | UNSUPPORTED
    )

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Alternatives = 0
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None
    verbosity: Literal["medium"] = "medium"
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    chat_template_kwargs: TemplateVariables | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False  # the chat template writes them

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "'top_logprobs' is only for log-probabilities; set logprobs to true, or leave it out.",
                param="top_logprobs",
                code=CONFLICT,
            )
        asks_for_both = "add_generation_prompt" in self.model_fields_set and self.add_generation_prompt
        if self.continue_final_message and asks_for_both:
            raise InvalidRequest(
                "'continue_final_message' goes on with the last message, and 'add_generation_prompt' begins another; "
                "set one of them to false.",
                param="continue_final_message",
                code=CONFLICT,
            )
        return self

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def alternatives(self) -> int | None:
        return self.top_logprobs if self.logprobs else None

    def chat(self) -> ChatRequest:
        tools = [entry.as_tool() for entry in self.tools or ()]
        variables = dict(self.chat_template_kwargs or {})
        if self.reasoning_effort is not None:
            variables.setdefault("reasoning_effort", self.reasoning_effort)
        return ChatRequest(
            messages=[for_template(message) for message in self.messages],
            tools=tools,
            tool_choice=tool_choice(self.tool_choice, tools, parallel=self.parallel_tool_calls),
            variables=variables,
            add_generation_prompt=self.add_generation_prompt and not self.continue_final_message,
            continue_final=self.continue_final_message,
            echo=self.echo,
        )

    def sampling(self, defaults: Any) -> dict[str, Any]:
        """As documented, presence_penalty acts as a repetition penalty, unless that one is given itself."""
        p = self.presence_penalty
        values = {**super().sampling(defaults), "presence_penalty": 0.0}
        if p and self.repetition_penalty is None:
            values["repetition_penalty"] = 1 + p if p > 0 else 1 / (1 - p)
        return values


class CompletionBody(OpenAIFields):
    """POST /v1/completions."""

    field_names: ClassVar = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}
    unsupported: ClassVar = frozenset({"cache_salt", "prompt_embeds"} | UNSUPPORTED)

    prompt: Annotated[
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)],
        NamesEntries,
    ]
    max_tokens: Annotated[int, Field(ge=0), BOUNDED] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    logprobs: Alternatives | None = None
    suffix: Literal[""] = ""

    @model_validator(mode="after")
    def _check_best_of(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise refusal("best_of", self.best_of, f"it must be at least n, which is {self.n}", code=CONFLICT)
        if self.best_of is not None and self.best_of > self.n and self.stream:
            raise InvalidRequest(
                "'best_of' is decided when all choices have ended; set stream to false, or best_of to n.",
                param="best_of",
                code=CONFLICT,
            )
        return self

    @property
    def token_limit(self) -> int | None:
        return None if self.max_tokens is None else max(1, self.max_tokens)

    @property
    def choices(self) -> int:
        return self.best_of or self.n

    @property
    def echoes(self) -> bool:
        return self.echo

    @property
    def is_empty(self) -> bool:
        return self.max_tokens == 0

    @property
    def alternatives(self) -> int | None:
        return 0 if self.logprobs is None and self.choices > self.n else self.logprobs

    @property
    def prompt_alternatives(self) -> int | None:
        return self.logprobs if self.echo and self.prompt_logprobs is None else self.prompt_logprobs

    @property
    def prompts(self) -> Sequence[str | Sequence[int]]:
        """The prompts, each of which gets n choices."""
        return as_prompts(self.prompt)
