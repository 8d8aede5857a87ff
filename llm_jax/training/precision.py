"""Mixed precision: the dtype of the computation, and the loss scale that float16 needs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from llm_jax.training.config import OptimizationConfig

FIRST_SCALE, LARGEST_SCALE = 2.0**15, 2.0**24
GROW_AFTER = 2000  # finite steps in a row


class LossScale(NamedTuple):
    """Dynamic loss scaling (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2).

    Gradients below float16's range vanish, so the loss is scaled up before differentiating. A step whose gradients
    overflow is skipped and halves the scale; GROW_AFTER good steps in a row double it.
    """

    scale: Array  # float32 []
    good_steps: Array  # int32 []

    @classmethod
    def initial(cls) -> "LossScale":
        return cls(jnp.float32(FIRST_SCALE), jnp.int32(0))

    def adjusted(self, finite: Array) -> "LossScale":
        """The scale for the next step, given whether this step's gradients were finite."""
        grow = self.good_steps + 1 >= GROW_AFTER
        grown = jnp.where(grow, jnp.minimum(self.scale * 2, LARGEST_SCALE), self.scale)
        scale = jnp.where(finite, grown, jnp.maximum(self.scale / 2, 1.0))
        return LossScale(scale, jnp.where(finite & ~grow, self.good_steps + 1, 0))


def compute_dtype(config: OptimizationConfig) -> jnp.dtype:
    """float32, or with use_amp the 16-bit type: bfloat16 needs no loss scale, but GPUs before Ampere lack it."""
    if not config.use_amp:
        return jnp.dtype(jnp.float32)
    if config.amp_dtype != "auto":
        return jnp.dtype(config.amp_dtype)
    device = jax.devices()[0]
    old_gpu = device.platform == "gpu" and float(getattr(device, "compute_capability", 8.0)) < 8.0
    return jnp.dtype(jnp.float16 if old_gpu else jnp.bfloat16)
