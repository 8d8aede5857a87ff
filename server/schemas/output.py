"""The forms that a text can be held to: OpenAI's response_format, vLLM's structured_outputs and guided_*."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import from_json

from server.chat.chat_request import OutputFormat
from server.http.errors import CONFLICT, UNUSABLE, InvalidRequest
from server.schemas.base import Body, refusal
from server.schemas.sampling import SamplingFields

Schema = dict[str, Any]
Choices = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
UNSUPPORTED = frozenset(
    {"structural_tag", "whitespace_pattern", "guided_decoding_backend", "guided_whitespace_pattern"}
)


class JsonSchema(Body):
    """What `response_format` has under "json_schema". Only the schema acts, and it always holds, strict or not."""

    name: str
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool = False


class FreeFormat(Body):
    """`response_format` without a schema, or with one in llama.cpp's spelling, beside "json_object"."""

    type: Literal["text", "json_object"]
    json_schema: JsonSchema | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None

    @property
    def output(self) -> OutputFormat | None:
        if self.type == "text":
            return None
        schema = self.json_schema.schema_ if self.json_schema else self.schema_
        return OutputFormat("json_object" if schema is None else "json_schema", schema)


class SchemaFormat(Body):
    """`response_format` with a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema
    schema_: Annotated[Schema | None, Field(alias="schema")] = None

    @property
    def output(self) -> OutputFormat:
        schema = self.json_schema.schema_
        return OutputFormat("json_object" if schema is None else "json_schema", schema)


ResponseFormat = Annotated[FreeFormat | SchemaFormat, Field(discriminator="type")]


class StructuredOutputs(Body):
    """`structured_outputs`: one of the forms."""

    json_: Annotated[Schema | str | None, Field(alias="json")] = None
    json_object: bool = False
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    disable_fallback: bool = False
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False


class StructuredFields(SamplingFields):
    """The fields that say which form a text must have; at most one of them may be given."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None

    @property
    def output(self) -> OutputFormat | None:
        forms = self._forms()
        return next(iter(forms.values()), None)

    @property
    def output_field(self) -> str:
        """The field that says the form."""
        return next(iter(self._forms()), "response_format")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        fields = list(self._forms())
        if len(fields) > 1:
            raise InvalidRequest(
                f"'{fields[0]}' and '{fields[1]}' are both given; a text can have one form only.",
                param=fields[1],
                code=CONFLICT,
            )
        return self

    def _forms(self) -> dict[str, OutputFormat]:
        given: dict[str, OutputFormat | None] = {
            "response_format": self.response_format.output if self.response_format else None,
            "guided_json": _json_form("guided_json", self.guided_json),
            "guided_regex": _form("regex", self.guided_regex),
            "guided_choice": _form("choice", self.guided_choice),
            "guided_grammar": _form("grammar", self.guided_grammar),
        }
        if outputs := self.structured_outputs:
            given |= {
                "structured_outputs.json": _json_form("structured_outputs.json", outputs.json_),
                "structured_outputs.json_object": OutputFormat("json_object") if outputs.json_object else None,
                "structured_outputs.regex": _form("regex", outputs.regex),
                "structured_outputs.choice": _form("choice", outputs.choice),
                "structured_outputs.grammar": _form("grammar", outputs.grammar),
            }
        return {field: form for field, form in given.items() if form is not None}


def _form(kind: Literal["regex", "choice", "grammar"], value: Any) -> OutputFormat | None:
    return None if value is None else OutputFormat(kind, value)


def _json_form(field: str, schema: Schema | str | None) -> OutputFormat | None:
    """A schema, which may be written as a string."""
    if isinstance(schema, str):
        try:
            read = from_json(schema)
        except ValueError as error:
            raise refusal(field, schema, f"the JSON schema is not JSON: {error}", code=UNUSABLE) from None
        if not isinstance(read, dict):
            raise refusal(field, schema, "the JSON schema must be an object", code=UNUSABLE)
        schema = read
    return None if schema is None else OutputFormat("json_schema", schema)
