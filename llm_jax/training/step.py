"""One optimiser step: gradients, clipping, AdamW, in one jitted function over flat parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from llm_jax.model import Params
from llm_jax.training.precision import LossScale

Batch = dict[str, Any]


class Loss(Protocol):
    """A loss of a batch as (sum, weight), computed in `dtype`, with dropout where a key is given."""

    def __call__(
        self, params: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> tuple[Array, Array]: ...


class TrainState(NamedTuple):
    """All arrays that a step changes, float32 but for counters."""

    params: Params
    optimizer: optax.OptState
    loss_scale: LossScale | None  # float16 only


class StepMetrics(NamedTuple):
    """What a step tells: the mean loss before the update, the gradient's norm before clipping, what was counted."""

    loss: Array
    grad_norm: Array
    weight: Array  # of the loss: tokens or samples
    applied: Array  # bool; false where float16 gradients overflowed and the step was skipped


TrainStep = Callable[[TrainState, Batch, int, float], tuple[TrainState, StepMetrics]]


def initial_state(params: Params, optimizer: optax.GradientTransformation, dtype: jnp.dtype) -> TrainState:
    return TrainState(params, optimizer.init(params), LossScale.initial() if dtype == jnp.float16 else None)


def make_train_step(loss: Loss, optimizer: optax.GradientTransformation, *, dtype: jnp.dtype, seed: int) -> TrainStep:
    """step(state, batch, number, lr) -> (state, metrics); the state is donated.

    The batch has shape [A, B, …]: A parts whose gradients are accumulated. The result is that of one batch of A · B
    examples: each part's loss is divided by the weight of all. Dropout depends on (seed, number, part) alone.
    """

    def train_step(state: TrainState, batch: Batch, number: Array, lr: Array) -> tuple[TrainState, StepMetrics]:
        step_key = jax.random.fold_in(jax.random.key(seed), number)
        scale = jnp.float32(1.0) if state.loss_scale is None else state.loss_scale.scale
        weight = jnp.maximum(batch["weights"].sum(), 1.0)

        def scaled_loss(params: Params, part: Batch, key: Array) -> Array:
            total, _ = loss(params, part, dtype=dtype, dropout_key=key)
            return total / weight * scale

        def accumulate(carry: tuple[Array, Params], part: tuple[Array, Batch]) -> tuple[tuple[Array, Params], None]:
            index, examples = part
            key = jax.random.fold_in(step_key, index)
            value, grads = jax.value_and_grad(scaled_loss)(state.params, examples, key)
            return (carry[0] + value, jax.tree.map(jnp.add, carry[1], grads)), None

        parts = batch["weights"].shape[0]
        carry = (jnp.float32(0.0), jax.tree.map(jnp.zeros_like, state.params))
        if parts == 1:  # no loop: XLA then keeps no second copy of the gradients
            carry, _ = accumulate(carry, (jnp.int32(0), jax.tree.map(lambda x: x[0], batch)))
        else:
            carry, _ = jax.lax.scan(accumulate, carry, (jnp.arange(parts), batch))
        value, grads = jax.tree.map(lambda x: x / scale, carry)

        grad_norm = optax.tree.norm(grads)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
        after = TrainState(params, optimizer_state, None)
        applied = jnp.bool_(True)
        if state.loss_scale is not None:
            applied = jnp.isfinite(grad_norm)
            before = state._replace(loss_scale=None)
            after = jax.tree.map(lambda new, old: jnp.where(applied, new, old), after, before)
            after = after._replace(loss_scale=state.loss_scale.adjusted(applied))
        return after, StepMetrics(value, grad_norm, weight, applied)

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(loss: Loss, *, dtype: jnp.dtype) -> Callable[[Params, Batch], tuple[Array, Array]]:
    """step(params, batch [B, …]) -> (loss sum, weight), without dropout."""

    @jax.jit
    def eval_step(params: Params, batch: Batch) -> tuple[Array, Array]:
        return loss(params, batch, dtype=dtype, dropout_key=None)

    return eval_step
