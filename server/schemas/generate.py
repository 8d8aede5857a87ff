"""Bodies of /generate and /batch_generate."""

from typing import Annotated, ClassVar

from pydantic import Field

from server.schemas.output import StructuredFields
from server.schemas.sampling import Count


class GenerateFields(StructuredFields):
    """What both routes share."""

    field_names: ClassVar = {"min_new_tokens": "min_tokens"}

    max_new_tokens: Count | None = None

    @property
    def token_limit(self) -> int | None:
        return self.max_new_tokens


class GenerateBody(GenerateFields):
    prompt: str
    stream: bool = False


class BatchGenerateBody(GenerateFields):
    field_names: ClassVar = {"prompt": "prompts", "min_new_tokens": "min_tokens"}

    prompts: Annotated[list[str], Field(min_length=1, max_length=32)]
