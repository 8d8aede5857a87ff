"""The fields that every generating route has."""

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, WithJsonSchema, model_validator

from server.chat.chat_request import OutputFormat
from server.schemas.base import Body, bounded_by, refusal

Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenId = Annotated[int, Field(ge=0, lt=2**31, json_schema_extra=bounded_by("vocabulary"))]
TOKEN_KEY = r"0|[1-9][0-9]{0,9}"
Bias = Annotated[float, Field(ge=-100, le=100)]
LogitBias = Annotated[
    dict[str, Bias],  # whose keys are checked below
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": f"^({TOKEN_KEY})$", **bounded_by("vocabulary")},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]
BOUNDED = Field(lt=2**31, json_schema_extra=bounded_by("completion"))
Count = Annotated[int, Field(ge=1), BOUNDED]
MAX_CHOICES = 128  # OpenAI's bound on n


class SamplingFields(Body):
    """Sampling parameters, named as SamplingParams names them.

    `field_names` says what a route calls what the core calls prompt, max_new_tokens and json_schema.
    `add_special_tokens` surrounds a prompt as text with what the tokenizer adds, such as a BOS.
    """

    field_names: ClassVar[Mapping[str, str]] = {}

    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    logit_bias: LogitBias | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    stop_token_ids: list[TokenId] | None = None
    min_tokens: Annotated[int, Field(ge=0), BOUNDED] = 0
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    add_special_tokens: bool = True
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0

    @property
    @abstractmethod
    def token_limit(self) -> int | None:
        """How many tokens may be generated, where the client says so."""

    @property
    def output(self) -> OutputFormat | None:
        """The form that a text must have."""
        return None

    @property
    def output_field(self) -> str:
        """The field that says so."""
        return "response_format"

    @property
    def choices(self) -> int:
        """How many choices there are for each prompt."""
        return 1

    @property
    def echoes(self) -> bool:
        """Whether a text begins with its prompt."""
        return False

    @property
    def is_empty(self) -> bool:
        """Whether no token is wanted, but the prompt's."""
        return False

    @property
    def alternatives(self) -> int | None:
        """How many alternatives of each token are reported; None reports no log-probabilities."""
        return None

    @property
    def prompt_alternatives(self) -> int | None:
        """The same of the prompt's tokens."""
        return None

    @property
    def cache_key(self) -> str:
        """Cached prompt beginnings are shared between requests of the same key only."""
        return ""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        strings = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return tuple(filter(None, strings))

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        for key in self.logit_bias or ():
            if not re.fullmatch(TOKEN_KEY, key):
                raise refusal("logit_bias", key, 'a key must be a token id, such as "42"')
        return self

    def sampling(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Keywords of SamplingParams, without max_new_tokens and stop_ids.

        Args:
            defaults: of the model, for what the client leaves open.
        """
        values = {
            name: getattr(self, name) if name in self.model_fields_set else defaults.get(name, getattr(self, name))
            for name in ("temperature", "top_k", "top_p", "repetition_penalty")
        }
        if values["top_p"] == 0:
            values |= {"temperature": 0.0, "top_p": None}
        return {
            **values,
            "top_k": max(values["top_k"] or 0, 0),
            "repetition_penalty": values["repetition_penalty"] or 1.0,
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(token): bias for token, bias in self.logit_bias.items()} if self.logit_bias else None,
            "seed": self.seed,
            "min_new_tokens": self.min_tokens,
            "logprobs": self.alternatives,
            "prompt_logprobs": self.prompt_alternatives,
        }
