"""Texts, or token ids, one or several: the prompts of completions and the input of embeddings."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, ValidationInfo

from server.schemas.base import refusal
from server.schemas.sampling import TokenId

TokenIds = Annotated[list[TokenId], Field(min_length=1)]


def _name_entries(value: Any, info: ValidationInfo) -> Any:
    """Names the entry of a prompt that is wrong, which a union of types does not."""
    field = str(info.field_name)
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise refusal(field, value, "give text, a list of texts, token ids, or lists of token ids")
    if isinstance(value[0], list):
        for index, ids in enumerate(value):
            _check_entries(f"{field}[{index}]", ids, int, "a token id")
    elif isinstance(value[0], str):
        _check_entries(field, value, str, "text, as the first entry is")
    else:
        _check_entries(field, value, int, "a token id; a list may also hold texts alone, or lists of token ids")
    return value


def _check_entries(param: str, entries: Any, kind: type, name: str) -> None:
    if not isinstance(entries, list) or not entries:
        raise refusal(param, entries, "it must be a list of token ids, of at least one")
    for index, entry in enumerate(entries):
        if not isinstance(entry, kind) or isinstance(entry, bool):
            raise refusal(f"{param}[{index}]", entry, f"it must be {name}")


NamesEntries = BeforeValidator(_name_entries)


def as_prompts(value: str | list[int] | list[str] | list[list[int]]) -> Sequence[str | Sequence[int]]:
    """One entry per prompt."""
    if isinstance(value, str):
        return [value]
    ids = [token for token in value if isinstance(token, int)]
    return [ids] if ids else cast("list[str] | list[list[int]]", value)
