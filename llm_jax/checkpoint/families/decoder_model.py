"""The DecoderModel layout: config.json holds the fields of ModelConfig; tensors have the names of its state_dict."""

import dataclasses
import re

from llm_jax.checkpoint.family import Family, Json, Section
from llm_jax.checkpoint.names import Rule, same
from llm_jax.config import ModelConfig, RopeScaling
from llm_jax.errors import CheckpointError, nearest
from llm_jax.model import param_shapes

# Entries of config.json that do not describe the architecture.
BOOKKEEPING = frozenset(
    {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"}
    | {"bos_token_id", "eos_token_id", "pad_token_id"}
)


def _read(entries: Json) -> Json:
    known = {f.name for f in dataclasses.fields(ModelConfig)}
    fields = {name: value for name, value in entries.items() if name not in BOOKKEEPING}
    for name in fields:
        if name not in known:
            near = nearest(name, known, cutoff=0.6)
            hint = f"; did you mean {near}?" if near else "."
            raise CheckpointError(f"config.json has the unknown entry {name}{hint}")
    if fields.get("rope_scaling") is not None:
        scaling = fields["rope_scaling"]
        factors = {name: tuple(scaling.get(name, ())) for name in ("factors", "long_factors")}
        fields["rope_scaling"] = RopeScaling(**{**scaling, **factors})
    for name in ("window_layers", "rope_layers", "moe_layers"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    if isinstance(fields.get("qk_norm"), bool):  # as earlier versions wrote it
        fields["qk_norm"] = "head" if fields["qk_norm"] else None
    return fields


def _table(config: ModelConfig) -> tuple[Rule, ...]:
    """Every parameter under its own name."""
    return tuple(same(name, name) for name in param_shapes(config))


DECODER_MODEL = Family(
    model_type="llm_decoder",
    architecture="DecoderModel",
    table=_table,
    sections=(Section(_read, ModelConfig.to_dict),),
    ignored=re.compile(r"^embedding_layer\.positional_encoding\.pe$"),
)
