"""The rules that hold for every request body."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError, from_json, to_json
from starlette.requests import Request

from server.http.errors import InvalidRequest

LIMIT = "x-limit"
LONGEST_VALUE = 80  # characters of a wrong value that are shown to the client


def _only_false(value: bool) -> bool:
    if value:
        raise PydanticCustomError("unsupported_value", "only false is supported here")
    return value


def bounded_by(limit: str) -> dict[str, Any]:
    """Marks a number, or the keys of an object, as bounded by a limit of the served model (`ServedModel.limits`).

    It is checked when the model is known; /openapi.json states it as a maximum.
    """
    return {LIMIT: limit}


# A switch that is there, and stands still. (A Literal would take 0 for it.)
Off = Annotated[bool, AfterValidator(_only_false), WithJsonSchema({"type": "boolean", "const": False})]


class Body(BaseModel):
    """A JSON object. A route's body lists in `unsupported` the fields of OpenAI's API that it does not have.

    `is_bounded`: whether the limits of the served model are limits of its fields.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    unsupported: ClassVar[frozenset[str]] = frozenset()
    is_bounded: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        """A null is the default; the values of fields that are any JSON keep theirs."""
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )

    @classmethod
    async def read(cls, request: Request) -> Self:
        """The body of a request.

        Raises:
            InvalidRequest: it is not JSON, or not an object with these fields.
        """
        return cls.parse(await read_object(request))

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """An object of JSON as this body. Raises what `read` does."""
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
        if kind in ("missing", "union_tag_not_found"):
            return InvalidRequest(
                f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
            )
        if kind == "union_tag_invalid":
            field = problem["ctx"]["discriminator"].strip("'")
            return refusal(param, problem["input"][field], f"it must be one of {problem['ctx']['expected_tags']}")
        return refusal(param, problem["input"], problem["msg"])


async def read_object(request: Request) -> dict[str, Any]:
    """The JSON object that a request bears; raises InvalidRequest where there is none."""
    try:
        values = from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The request body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(values, dict):
        raise InvalidRequest("The request body must be a JSON object.", code="invalid_json")
    return {name: _with_integers(value) for name, value in values.items()}


def _with_integers(value: Any) -> Any:
    """A number without a fraction is an integer in JSON, also where it is written 1.0."""
    if isinstance(value, list):
        return [_with_integers(part) for part in value]
    if isinstance(value, dict):
        return {name: _with_integers(part) for name, part in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value


def refusal(param: str, value: Any, reason: str, *, code: str = "invalid_value") -> InvalidRequest:
    """The error for a field with a wrong value, of which no more than its beginning is repeated."""
    given = to_json(value, inf_nan_mode="constants").decode()
    shown = given if len(given) <= LONGEST_VALUE else given[:LONGEST_VALUE] + "…"
    return InvalidRequest(f"'{param}' is {shown}: {reason}.", param=param, code=code)


def _path(problem: Any, values: Any) -> str:
    """Where in the body the problem is, as in messages[0].content; Pydantic's own names of union members left out."""
    path = ""
    places = list(problem["loc"])
    if problem["type"] == "missing":
        places, field = places[:-1], f".{places[-1]}"
    else:
        field = f".{problem['ctx']['discriminator']}".replace("'", "") if "union_tag" in problem["type"] else ""
    for part in places:
        if isinstance(values, list) and isinstance(part, int):
            path += f"[{part}]"
        elif isinstance(values, dict) and part in values:
            path += f".{part}"
        else:
            continue
        values = values[part]
    return (path + field).removeprefix(".")
