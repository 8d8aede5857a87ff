"""Bodies of /tokenize and /detokenize, with vLLM's names."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from server.errors import InvalidRequest
from server.schemas.base import Body
from server.schemas.openai import Message


class TokenizeBody(Body):
    """A prompt as text, or the messages of a chat. Special tokens are added to a prompt, unless it says otherwise."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
                {"required": ["messages"], "properties": {"messages": {"type": "array"}}},
            ]
        }
    )

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("Give either 'prompt' or 'messages'.", param="prompt", code="invalid_value")
        return self


class DetokenizeBody(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]]
