"""Our own layout: ModelConfig as it is, the documented names."""

import dataclasses
import re
from difflib import get_close_matches

from llm_jax.checkpoint.family import Family, Json, Section
from llm_jax.checkpoint.names import own_table
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError

# Entries of config.json that say nothing about the architecture.
BOOKKEEPING = frozenset(
    {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"}
    | {"bos_token_id", "eos_token_id", "pad_token_id"}
)


def _read(theirs: Json) -> Json:
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    ours = {name: value for name, value in theirs.items() if name not in BOOKKEEPING}
    for name in ours:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise CheckpointError(f"config.json has the unknown entry {name}{hint}")
    if ours.get("rope_scaling") is not None:
        scaling = ours["rope_scaling"]
        ours["rope_scaling"] = RopeScaling(**{**scaling, "factors": tuple(scaling.get("factors", ()))})
    if ours.get("window_layers") is not None:
        ours["window_layers"] = tuple(ours["window_layers"])
    return ours


OWN = Family(
    model_type="llm_decoder",
    architecture="DecoderModel",
    table=own_table,
    sections=(Section(_read, ModelConfig.to_dict),),
    ignored=re.compile(r"^embedding_layer\.positional_encoding\.pe$"),
)
