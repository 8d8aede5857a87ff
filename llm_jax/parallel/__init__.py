"""Devices, processes and the sharding of arrays across them."""

from llm_jax.parallel.device import DeviceName, use_device
from llm_jax.parallel.mesh import AXES, make_mesh, tensor_parallel_mesh
from llm_jax.parallel.processes import join_processes
from llm_jax.parallel.rules import RULES, parts, replicate, replicated, sharding

__all__ = [
    "AXES",
    "RULES",
    "DeviceName",
    "join_processes",
    "make_mesh",
    "parts",
    "replicate",
    "replicated",
    "sharding",
    "tensor_parallel_mesh",
    "use_device",
]
