"""generation_config.json: the ids that begin, end and pad a text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_jax.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """The ids with which a model's texts begin, end and are padded.

    Attributes:
        eos_ids: any of these ends a text; empty where the model names none.
    """

    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    pad_id: int | None = None

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer | None) -> "GenerationDefaults":
        if tokenizer is None:
            return cls()
        eos = tokenizer.eos_token_id
        return cls(eos_ids=() if eos is None else (eos,), bos_id=tokenizer.bos_token_id, pad_id=tokenizer.pad_token_id)

    @classmethod
    def from_json(cls, *files: Mapping[str, Any]) -> "GenerationDefaults":
        """The first file that names an id decides (generation_config.json, then config.json)."""
        ids = {
            name: next((file[name] for file in files if file.get(name) is not None), None)
            for name in ("eos_token_id", "bos_token_id", "pad_token_id")
        }
        eos = ids["eos_token_id"]
        many = eos if isinstance(eos, list) else [] if eos is None else [eos]
        return cls(eos_ids=tuple(many), bos_id=ids["bos_token_id"], pad_id=ids["pad_token_id"])

    def to_json(self) -> dict[str, Any]:
        eos: int | list[int] | None = list(self.eos_ids) or None
        if len(self.eos_ids) == 1:
            eos = self.eos_ids[0]
        return {"bos_token_id": self.bos_id, "eos_token_id": eos, "pad_token_id": self.pad_id}
