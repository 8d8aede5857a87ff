"""Bodies of /generate and /batch_generate."""

from typing import Annotated

from pydantic import Field

from server.schemas.base import SamplingFields


class GenerateFields(SamplingFields):
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


class GenerateBody(GenerateFields):
    prompt: str
    stream: bool = False


class BatchGenerateBody(GenerateFields):
    prompts: Annotated[list[str], Field(min_length=1, max_length=32)]
