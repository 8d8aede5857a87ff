"""The body of /v1/embeddings."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from server.schemas.base import Body

MAX_INPUTS = 2048  # as OpenAI's API takes them
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Texts = Annotated[list[str] | list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]


class EmbeddingBody(Body):
    """POST /v1/embeddings. `user` goes to the access log."""

    field_names: ClassVar = {"prompt": "input"}

    model: str | None = None
    input: str | TokenIds | Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    add_special_tokens: bool = True
    user: str | None = None

    @property
    def texts(self) -> Sequence[str | Sequence[int]]:
        """One entry per embedding."""
        if isinstance(self.input, str):
            return [self.input]
        ids = [token for token in self.input if isinstance(token, int)]
        return [ids] if ids else cast("list[str] | list[list[int]]", self.input)
