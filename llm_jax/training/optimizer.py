"""Optimisers by name, with clipping, decay of matrices, and averages of the parameters.

All of them give updates for a learning rate of 1, to subtract; the step multiplies them by the scheduled one, which it
also passes as `lr` to those that have to know it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from llm_jax import kernels
from llm_jax.model import Params
from llm_jax.training.config import TrainingConfig
from llm_jax.training.muon import is_hidden_matrix, scale_by_muon

EPSILON = 1e-8  # of Adam


def make_optimizer(
    config: TrainingConfig, *, beta2: float, fused: Mapping[str, tuple[int, ...]]
) -> optax.GradientTransformation:
    """The optimiser of training.optimizer, around it the average of training.ema_decay.

    Args:
        beta2: unless training.beta2 is set.
        fused: rows of the parts of fused matrices, by name.
    """
    beta1, beta2 = config.beta1, beta2 if config.beta2 is None else config.beta2
    decay, clip, moment = config.weight_decay, config.gradient_clip_val, config.moment_dtype
    match config.optimizer:
        case "adamw":
            optimizer = adamw(beta1=beta1, beta2=beta2, weight_decay=decay, clip=clip, moment_dtype=moment)
        case "muon":
            each = scale_by_muon(config.muon_momentum, fused, moment), _adam(beta1, beta2, moment)
            optimizer = muon(*each, weight_decay=decay, clip=clip)
        case "adafactor":  # without a first moment (Shazeer and Stern 2018, arXiv:1804.04235)
            scaled = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
            optimizer = _chain(scaled, weight_decay=decay, clip=clip)
        case "lion":  # Chen et al. 2023, arXiv:2302.06675
            scaled = optax.scale_by_lion(b1=beta1, b2=beta2, mu_dtype=moment)
            optimizer = _chain(scaled, weight_decay=decay, clip=clip)
        case "schedule_free":
            scaled = _chain(_adam(0.0, beta2), weight_decay=decay, clip=clip)
            optimizer = schedule_free(scaled, beta1)
    return optimizer if config.ema_decay is None else averaged(optimizer, config.ema_decay)


def adamw(
    *, beta1: float, beta2: float, weight_decay: float, clip: float | None, moment_dtype: str = "float32"
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with clipping.

    Gradients are first clipped to a global norm of `clip`, over the parameters that are given. The first moment is
    stored in `moment_dtype`; the second needs float32, whose last steps toward a mean are smaller than bfloat16's.
    """
    optimizer = AdamW(*_chain(_adam(beta1, beta2, moment_dtype), weight_decay=weight_decay, clip=clip))
    optimizer.settings = AdamSettings((beta1, beta2), weight_decay, clip)
    return optimizer


def _adam(beta1: float, beta2: float, moment_dtype: str = "float32") -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=beta1, b2=beta2, eps=EPSILON, mu_dtype=moment_dtype)


@dataclass(frozen=True)
class AdamSettings:
    betas: tuple[float, float]
    weight_decay: float
    clip: float | None


class AdamW(optax.GradientTransformation):
    """`adamw`, which can also update parameters and moments where they lie."""

    settings: AdamSettings

    def is_in_place(self, params: Params) -> bool:
        """Whether `apply` works here."""
        return kernels.has_native_update() and all(value.dtype == jnp.float32 for value in params.values())

    def apply(
        self, grads: Params, norm: Array, state: Any, params: Params, *, factor: Array, lr: Array, applied: Array
    ) -> tuple[Params, optax.OptState]:
        """Parameters and state after a step, both unchanged where it is not to be `applied`.

        Args:
            norm: of the gradients times `factor`, which are what is applied.
        """
        clipping, adam, decaying = state
        settings, decayed = self.settings, matrices(params)
        clip = jnp.float32(1) if settings.clip is None else jnp.where(norm < settings.clip, 1.0, settings.clip / norm)
        count = optax.safe_increment(adam.count)
        params, mu, nu = kernels.adamw(
            params,
            adam.mu,
            adam.nu,
            grads,
            rate=lr,
            factor=factor * clip,
            step=count,
            applied=applied,
            betas=settings.betas,
            epsilon=EPSILON,
            decay={name: settings.weight_decay * decays for name, decays in decayed.items()},
        )
        adam = adam._replace(count=jnp.where(applied, count, adam.count), mu=mu, nu=nu)
        return params, (clipping, adam, decaying)


def muon(
    of_matrices: optax.GradientTransformation,
    of_rest: optax.GradientTransformation,
    *,
    weight_decay: float,
    clip: float | None,
) -> optax.GradientTransformation:
    """`of_matrices` for the hidden matrices, `of_rest` for the rest."""

    def labels(params: Params) -> dict[str, str]:
        return {name: "muon" if is_hidden_matrix(name, value) else "adam" for name, value in params.items()}

    each = {"muon": of_matrices, "adam": of_rest}
    return _chain(optax.partition(each, labels), weight_decay=weight_decay, clip=clip)


def _chain(
    scaled: optax.GradientTransformation, *, weight_decay: float, clip: float | None
) -> optax.GradientTransformation:
    return optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        scaled,
        optax.add_decayed_weights(weight_decay, mask=matrices),
    )


def matrices(params: Params) -> dict[str, bool]:
    """Which parameters decay: weights of two or more axes, so neither biases nor the scales of norms."""
    return {name: name.endswith("weight") and value.ndim >= 2 for name, value in params.items()}


# ---- averages: the parameters that are validated and saved are not those that gradients are taken at ----


class AveragedState(NamedTuple):
    inner: optax.OptState
    average: Params
    steps: Array  # done, int32 []


class ScheduleFreeState(NamedTuple):
    """The sequence z of arXiv:2405.15682; the parameters are y, between it and their weighted average x."""

    inner: optax.OptState
    z: Params
    weights: Array  # the sum of lr² so far
    beta: Array


def evaluated_params(state: optax.OptState, trainable: Params) -> Params:
    """What is validated and saved: an optimiser's average where it has one, else the parameters themselves."""
    if isinstance(state, AveragedState):
        return state.average
    if isinstance(state, ScheduleFreeState):
        beta = state.beta
        return jax.tree.map(lambda y, z: (y - (1 - beta) * z) / beta, trainable, state.z)
    return trainable


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, with an exponential moving average of what it evaluates; in the first steps over fewer of them."""
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Params) -> AveragedState:
        return AveragedState(inner.init(params), jax.tree.map(jnp.array, params), jnp.int32(0))

    def update(
        grads: Params, state: AveragedState, params: Params, *, lr: Array, **more: Any
    ) -> tuple[Params, AveragedState]:
        updates, after = inner.update(grads, state.inner, params, lr=lr, **more)
        new = evaluated_params(after, jax.tree.map(lambda p, u: p - lr * u, params, updates))
        old = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        average = jax.tree.map(lambda a, p: old * a + (1 - old) * p, state.average, new)
        return updates, AveragedState(after, average, state.steps + 1)

    return optax.GradientTransformationExtraArgs(init, update)


def schedule_free(scaled: optax.GradientTransformation, beta: float) -> optax.GradientTransformationExtraArgs:
    """Averaging in place of a decay of the learning rate (Defazio et al. 2024, arXiv:2405.15682).

    Use a warm-up and a constant learning rate with it.

    Args:
        scaled: gives the steps of z.
    """

    def init(params: Params) -> ScheduleFreeState:
        copy = jax.tree.map(jnp.array, params)
        return ScheduleFreeState(scaled.init(params), copy, jnp.float32(0.0), jnp.float32(beta))

    def update(
        grads: Params, state: ScheduleFreeState, params: Params, *, lr: Array, **_: Any
    ) -> tuple[Params, ScheduleFreeState]:
        steps, inner = scaled.update(grads, state.inner, params)
        weights = state.weights + lr**2
        share = jnp.where(weights > 0, lr**2 / jnp.maximum(weights, 1e-30), 0.0)
        x = evaluated_params(state, params)
        z = jax.tree.map(lambda z, u: z - lr * u, state.z, steps)
        x = jax.tree.map(lambda x, z: (1 - share) * x + share * z, x, z)
        updates = jax.tree.map(lambda y, x, z: (y - beta * x - (1 - beta) * z) / jnp.maximum(lr, 1e-30), params, x, z)
        return updates, ScheduleFreeState(inner, z, weights, state.beta)

    return optax.GradientTransformationExtraArgs(init, update)
