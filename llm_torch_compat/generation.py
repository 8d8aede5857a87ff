"""generate, stream_generate and batch_generate for a DecoderModel: the core's own, on the module's memory."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from llm_jax import inference
from llm_jax.model import Model
from llm_torch_compat.decoder import DecoderModel

P = ParamSpec("P")
R = TypeVar("R")


def _for_torch(function: Callable[Concatenate[Model, P], R]) -> Callable[Concatenate[DecoderModel, P], R]:
    @wraps(function)
    def on_module(model: DecoderModel, *args: P.args, **kwargs: P.kwargs) -> R:
        return function(model.as_jax(), *args, **kwargs)

    return on_module


generate = _for_torch(inference.generate)
stream_generate = _for_torch(inference.stream_generate)
batch_generate = _for_torch(inference.batch_generate)
