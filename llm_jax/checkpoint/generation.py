"""generation_config.json: the ids that begin, end and pad a text, and how its maker would sample."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_jax.tokenizers import Tokenizer

SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """The ids with which a model's texts begin, end and are padded, and its maker's sampling settings.

    Attributes:
        eos_ids: any of these ends a text; empty where the model names none.
        sampling: those of SAMPLING that the model has, under the names that SamplingParams has too.
    """

    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    pad_id: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer | None) -> "GenerationDefaults":
        if tokenizer is None:
            return cls()
        eos = tokenizer.eos_token_id
        return cls(eos_ids=() if eos is None else (eos,), bos_id=tokenizer.bos_token_id, pad_id=tokenizer.pad_token_id)

    @classmethod
    def from_json(cls, generation: Mapping[str, Any], config: Mapping[str, Any]) -> "GenerationDefaults":
        """Of generation_config.json, {} where there is none; what it is silent on is in config.json."""
        ids = {
            name: next((file[name] for file in (generation, config) if file.get(name) is not None), None)
            for name in ("eos_token_id", "bos_token_id", "pad_token_id")
        }
        eos = ids["eos_token_id"]
        many = eos if isinstance(eos, list) else [] if eos is None else [eos]
        sampling = {name: generation[name] for name in SAMPLING if isinstance(generation.get(name), int | float)}
        return cls(eos_ids=tuple(many), bos_id=ids["bos_token_id"], pad_id=ids["pad_token_id"], sampling=sampling)

    def ids(self) -> dict[str, Any]:
        """What config.json has of it."""
        eos: int | list[int] | None = list(self.eos_ids) or None
        if len(self.eos_ids) == 1:
            eos = self.eos_ids[0]
        return {"bos_token_id": self.bos_id, "eos_token_id": eos, "pad_token_id": self.pad_id}

    def to_json(self) -> dict[str, Any]:
        """What generation_config.json has."""
        return {**self.ids(), **self.sampling}
