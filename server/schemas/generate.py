"""Bodies of /generate and /batch_generate."""

from typing import Annotated, ClassVar

from pydantic import Field

from server.schemas.base import SamplingFields


class GenerateFields(SamplingFields):
    """What both routes share."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_new_tokens


class GenerateBody(GenerateFields):
    prompt: str
    stream: bool = False


class BatchGenerateBody(GenerateFields):
    field_names: ClassVar = {"prompt": "prompts"}

    prompts: Annotated[list[str], Field(min_length=1, max_length=32)]
