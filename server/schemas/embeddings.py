"""The body of /v1/embeddings."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from server.schemas.base import Body, bounded_by
from server.schemas.prompts import NamesEntries, TokenIds, as_prompts

MAX_INPUTS = 2048  # as OpenAI's API takes them


Text = Annotated[str, Field(min_length=1)]


class EmbeddingBody(Body):
    """POST /v1/embeddings. `user` goes to the access log."""

    field_names: ClassVar = {"prompt": "input"}

    model: str | None = None
    input: Annotated[
        Text
        | TokenIds
        | Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)],
        NamesEntries,
    ]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, json_schema_extra=bounded_by("embedding"))] | None = None
    add_special_tokens: bool = True
    user: str | None = None

    @property
    def texts(self) -> Sequence[str | Sequence[int]]:
        """One entry per embedding."""
        return as_prompts(self.input)
