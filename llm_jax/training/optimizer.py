"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with clipping."""

import optax

from llm_jax.model import Params


def adamw(*, beta1: float, beta2: float, weight_decay: float, clip: float | None) -> optax.GradientTransformation:
    """Updates for a learning rate of 1, to subtract; the step multiplies them by the scheduled one.

    Gradients are first clipped to a global norm of `clip`, over the parameters that are given.
    """
    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.scale_by_adam(b1=beta1, b2=beta2, eps=1e-8),
        optax.add_decayed_weights(weight_decay, mask=matrices),
    )


def matrices(params: Params) -> dict[str, bool]:
    """Which parameters decay: weights of two or more axes, so neither biases nor the scales of norms."""
    return {name: name.endswith("weight") and value.ndim >= 2 for name, value in params.items()}
