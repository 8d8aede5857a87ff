"""Bodies of the routes that load and unload adapters, with vLLM's names."""

from typing import Annotated

from pydantic import Field

from server.schemas.base import Body


class LoadAdapterBody(Body):
    """POST /v1/load_lora_adapter."""

    lora_name: Annotated[str, Field(min_length=1, max_length=200)]
    lora_path: Annotated[str, Field(min_length=1)]
    base_model_name: str | None = None
    load_inplace: bool = True


class UnloadAdapterBody(Body):
    """POST /v1/unload_lora_adapter."""

    lora_name: str
