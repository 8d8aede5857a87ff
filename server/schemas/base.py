"""The rules that hold for every request body."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json
from starlette.requests import Request

from server.errors import InvalidRequest

DEFAULT_MAX_TOKENS = 50
LONGEST_VALUE = 80  # characters of a wrong value that are shown to the client

StopString = Annotated[str, Field(min_length=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class Body(BaseModel):
    """A JSON object. A route's body lists in `unsupported` the fields of OpenAI's API that it does not have."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    unsupported: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    async def read(cls, request: Request) -> Self:
        """The body of a request.

        Raises:
            InvalidRequest: it is not JSON, or not an object with these fields.
        """
        try:
            values = from_json(await request.body(), allow_inf_nan=False)
        except ValueError as error:
            raise InvalidRequest(f"The request body is not JSON: {error}.", code="invalid_json") from None
        if not isinstance(values, dict):
            raise InvalidRequest("The request body must be a JSON object.", code="invalid_json")
        values = _without_nulls(values)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            # In a union every member complains; the one that read furthest is the one that was meant.
            raise cls._explain(max(error.errors(), key=lambda problem: len(problem["loc"])), values) from None

    @classmethod
    def _explain(cls, problem: Any, values: Any) -> InvalidRequest:
        param, kind = _path(problem, values), problem["type"]
        if kind == "extra_forbidden" and problem["loc"][-1] in cls.unsupported:
            return InvalidRequest(
                f"'{param}' is not supported by this server; leave it out.", param=param, code="unsupported_parameter"
            )
        if kind == "extra_forbidden":
            return InvalidRequest(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
        if kind == "missing":
            return InvalidRequest(
                f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
            )
        given = to_json(problem["input"]).decode()
        shown = given if len(given) <= LONGEST_VALUE else given[:LONGEST_VALUE] + "…"
        return InvalidRequest(f"'{param}' is {shown}: {problem['msg']}.", param=param, code="invalid_value")


def _path(problem: Any, values: Any) -> str:
    """Where in the body the problem is, as in messages[0].content; Pydantic's own names of union members left out."""
    path = ""
    for part in problem["loc"]:
        if isinstance(values, list) and isinstance(part, int):
            path += f"[{part}]"
        elif isinstance(values, dict) and part in values:
            path += f".{part}"
        else:
            continue
        values = values[part]
    if problem["type"] == "missing":
        path += f".{problem['loc'][-1]}"
    return path.removeprefix(".")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


class SamplingFields(Body):
    """Sampling parameters: the fields that every generating route has, named as SamplingParams names them.

    `field_names` says what a route calls what the core calls prompt and max_new_tokens. `add_special_tokens` surrounds
    a prompt as text with what the tokenizer adds, such as a BOS.
    """

    field_names: ClassVar[Mapping[str, str]] = {}

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    seed: int | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    add_special_tokens: bool = True

    @property
    @abstractmethod
    def token_limit(self) -> int | None:
        """How many tokens may be generated, where the client says so."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def sampling(self) -> dict[str, Any]:
        """Keywords of SamplingParams, without max_new_tokens and stop_ids."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self._biases(),
            "seed": self.seed,
        }

    def _biases(self) -> dict[int, float] | None:
        try:
            return {int(token): bias for token, bias in self.logit_bias.items()} if self.logit_bias else None
        except ValueError:
            raise InvalidRequest(
                "Invalid 'logit_bias': its keys must be token ids, such as \"42\".",
                param="logit_bias",
                code="invalid_value",
            ) from None
