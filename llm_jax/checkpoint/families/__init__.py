"""The families, as data: one file per group. A new one is a Family there and an entry of FAMILIES."""

from llm_jax.checkpoint.families.cohere import COHERE, COHERE2
from llm_jax.checkpoint.families.decoder_model import DECODER_MODEL
from llm_jax.checkpoint.families.gemma import GEMMA, GEMMA2, GEMMA3
from llm_jax.checkpoint.families.glm import GLM, GLM4
from llm_jax.checkpoint.families.gpt2 import GPT2
from llm_jax.checkpoint.families.gpt_neox import FALCON, GPT_NEOX, GPTJ, PHI
from llm_jax.checkpoint.families.gpt_oss import GPT_OSS
from llm_jax.checkpoint.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from llm_jax.checkpoint.families.llama_relatives import (
    ARCEE,
    ERNIE4_5,
    GRANITE,
    HELIUM,
    HUNYUAN_DENSE,
    NEMOTRON,
    SEED_OSS,
    SMOLLM3,
    STABLELM,
)
from llm_jax.checkpoint.families.mixture import GLM4_MOE, MIXTRAL, OLMOE, QWEN2_MOE, QWEN3_MOE
from llm_jax.checkpoint.families.olmo import EXAONE4, OLMO2, OLMO3
from llm_jax.checkpoint.families.parts import ACTIVATIONS
from llm_jax.checkpoint.families.phi3 import PHI3
from llm_jax.checkpoint.families.starcoder2 import STARCODER2
from llm_jax.checkpoint.families.wrappers import WRAPPERS, text_entries, text_tensors
from llm_jax.checkpoint.family import Family, Json
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError

# In the order of preference when a model is saved: of the families that can express it, the plainest comes first.
FAMILIES = (
    *(LLAMA, MISTRAL, QWEN2, QWEN3, MIXTRAL, QWEN3_MOE, GEMMA, GEMMA2, GEMMA3, PHI3, GPT2, STARCODER2),
    *(SMOLLM3, GRANITE, OLMO2, OLMO3, EXAONE4, GLM, GLM4, COHERE, COHERE2, ERNIE4_5, SEED_OSS, ARCEE, HELIUM),
    *(NEMOTRON, STABLELM, HUNYUAN_DENSE, PHI, GPT_NEOX, GPTJ, FALCON),
    *(QWEN2_MOE, OLMOE, GLM4_MOE, GPT_OSS, DECODER_MODEL),
)


def family_of_config(entries: Json) -> Family:
    """The family that a config.json names. Raises CheckpointError if it is unknown."""
    model_type = entries.get("model_type")
    for family in FAMILIES:
        if family.model_type == model_type:
            return family
    known = ", ".join([*(family.model_type for family in FAMILIES), *WRAPPERS])
    raise CheckpointError(f"config.json has the model_type {model_type!r}; known families are {known}.")


def family_for(config: ModelConfig) -> Family:
    """The first family that can express this architecture; DECODER_MODEL expresses all."""
    return next(family for family in FAMILIES if family.expresses(config))


__all__ = ["ACTIVATIONS", "DECODER_MODEL", "FAMILIES", "family_for", "family_of_config", "text_entries", "text_tensors"]
