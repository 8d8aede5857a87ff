"""Devices and processes: which ones JAX computes on, and how arrays lie across them."""

from llm_jax.parallel.device import DeviceName, use_device

__all__ = ["DeviceName", "use_device"]
