"""Devices, processes and the sharding of arrays across them."""

from llm_jax.parallel.device import DeviceName, use_device
from llm_jax.parallel.mesh import AXES, make_mesh, tensor_parallel_mesh
from llm_jax.parallel.processes import (
    is_first,
    join_processes,
    largest,
    leaving_on_failure,
    on_host,
    text_of_first,
    wait_for_all,
)
from llm_jax.parallel.rules import RULES, parts, replicate, replicated, rows_in_place, sharding, whole_rows

__all__ = [
    "AXES",
    "RULES",
    "DeviceName",
    "is_first",
    "join_processes",
    "largest",
    "leaving_on_failure",
    "make_mesh",
    "on_host",
    "parts",
    "replicate",
    "replicated",
    "rows_in_place",
    "sharding",
    "tensor_parallel_mesh",
    "text_of_first",
    "use_device",
    "wait_for_all",
    "whole_rows",
]
