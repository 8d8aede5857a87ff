"""One optimiser step: gradients, clipping, the update, in one jitted function over flat parameters."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from llm_jax.data import Batch
from llm_jax.kernels import norm
from llm_jax.model import Params
from llm_jax.training.optimizer import AdamW
from llm_jax.training.precision import LossScale

# (sum, weight, aux): the mean loss is sum / weight, over one batch or over many; aux holds more sums over the same
# weight, by the names that the metrics report their means under. All are float32 scalars.
LossSums = tuple[Array, Array, dict[str, Array]]


class Loss(Protocol):
    """The loss of a batch, computed in `dtype`, with dropout where a key is given.

    It is differentiated by `trainable` alone. `frozen` is an argument, because arrays that a jitted function closes
    over are compiled into it as constants.
    """

    def __call__(
        self, trainable: Params, frozen: Params, batch: Batch, *, dtype: jnp.dtype, dropout_key: Array | None
    ) -> LossSums: ...


class TrainState(NamedTuple):
    """All arrays that a step changes, float32 but for counters."""

    trainable: Params
    optimizer: optax.OptState
    loss_scale: LossScale | None  # float16 only


class StepMetrics(NamedTuple):
    """What a step measures, as scalars on the device."""

    loss: Array  # mean, before the update
    grad_norm: Array  # global norm of the gradient, before clipping
    weight: Array  # of the loss: tokens or samples
    applied: Array  # bool; false where the loss or the gradient is not finite, so that the update was skipped
    failed: Array  # bool; the same, but where a lower loss scale may mend it
    aux: dict[str, Array]  # means


TrainStep = Callable[[TrainState, Params, Batch, int, float], tuple[TrainState, StepMetrics]]
EvalStep = Callable[[Params, Params, Batch], LossSums]


def initial_state(trainable: Params, optimizer: optax.GradientTransformation, dtype: jnp.dtype) -> TrainState:
    """The state before the first step, for a loss that is computed in `dtype`."""
    return TrainState(trainable, optimizer.init(trainable), LossScale.initial() if dtype == jnp.float16 else None)


def total_weight(batch: Batch) -> Array:
    """What most losses are averaged over."""
    weight: Array = batch["weights"].sum()
    return weight


def make_train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    dtype: jnp.dtype,
    seed: int,
    weigh: Callable[[Batch], Array] = total_weight,
    shardings: TrainState | None = None,
) -> TrainStep:
    """step(state, frozen, batch, number, lr) -> (state, metrics); the state is donated, frozen parameters are not.

    The batch has shape [micro-batches, B, …]. Gradients are accumulated over the micro-batches, and the result is
    that of one batch: the sum of all is divided by the weight of all. Dropout depends on `seed`, on `number` (of the
    step) and on the index of the micro-batch alone. A step whose loss or gradient is not finite changes no parameter.

    Args:
        weigh: the weight that the loss of a batch is averaged over, [] of arrays [micro-batches, B, …].
        shardings: of the state, on a mesh; gradients are sharded as their parameters are.
    """

    update = optax.with_extra_args_support(optimizer).update

    def train_step(
        state: TrainState, frozen: Params, batch: Batch, number: Array, lr: Array
    ) -> tuple[TrainState, StepMetrics]:
        step_key = jax.random.fold_in(jax.random.key(seed), number)
        weight = jnp.maximum(weigh(batch), 1.0)
        # Factors of the loss and of its gradient. The sum is differentiated, not the mean, and the optimiser divides:
        # a pass of its own would put a second copy of the gradients into memory. In float16 it is the mean, which a
        # scale keeps in range.
        of_loss, of_gradient = jnp.float32(1), 1 / weight
        if state.loss_scale is not None:
            of_loss, of_gradient = state.loss_scale.scale / weight, 1 / state.loss_scale.scale

        def scaled_loss(trainable: Params, examples: Batch, key: Array) -> tuple[Array, dict[str, Array]]:
            total, _, aux = loss(trainable, frozen, examples, dtype=dtype, dropout_key=key)
            return total * of_loss, aux

        def accumulate(
            sums: tuple[Array, Params], micro_batch: tuple[Array, Batch]
        ) -> tuple[tuple[Array, Params], dict[str, Array]]:
            index, examples = micro_batch
            key = jax.random.fold_in(step_key, index)
            (value, aux), grads = jax.value_and_grad(scaled_loss, has_aux=True)(state.trainable, examples, key)
            if shardings is not None:
                grads = jax.lax.with_sharding_constraint(grads, shardings.trainable)
            return jax.tree.map(jnp.add, sums, (value, grads)), aux

        count = batch["weights"].shape[0]
        sums = jnp.float32(0.0), jax.tree.map(jnp.zeros_like, state.trainable)
        if count == 1:  # without a loop XLA needs no second copy of the gradients
            sums, aux = accumulate(sums, (jnp.int32(0), jax.tree.map(lambda x: x[0], batch)))
        else:
            sums, aux = jax.lax.scan(accumulate, sums, (jnp.arange(count), batch))
        total, grads = sums
        value, grad_norm = total * of_gradient, norm(grads) * of_gradient
        aux = jax.tree.map(lambda x: x.sum() / weight, aux)
        applied = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        if isinstance(optimizer, AdamW) and optimizer.is_in_place(state.trainable):
            changed = optimizer.apply(
                grads, grad_norm, state.optimizer, state.trainable, factor=of_gradient, lr=lr, applied=applied
            )
            after = TrainState(*changed, None)
        else:
            grads = jax.tree.map(lambda x: x * of_gradient, grads)
            updates, optimizer_state = update(grads, state.optimizer, state.trainable, lr=lr)
            trainable = jax.tree.map(lambda p, u: p - lr * u, state.trainable, updates)
            after, before = TrainState(trainable, optimizer_state, None), state._replace(loss_scale=None)
            after = jax.tree.map(lambda new, old: jnp.where(applied, new, old), after, before)
        failed = ~applied
        if state.loss_scale is not None:
            failed &= ~jnp.isfinite(value) | (state.loss_scale.scale <= 1.0)
            after = after._replace(loss_scale=state.loss_scale.adjusted(applied))
        if shardings is not None:
            after = jax.lax.with_sharding_constraint(after, shardings)
        return after, StepMetrics(value, grad_norm, weight, applied, failed, aux)

    return jax.jit(train_step, donate_argnums=0)


def make_eval_step(loss: Loss, *, dtype: jnp.dtype) -> EvalStep:
    """step(trainable, frozen, batch [B, …]) -> LossSums, without dropout."""

    @jax.jit
    def eval_step(trainable: Params, frozen: Params, batch: Batch) -> LossSums:
        return loss(trainable, frozen, batch, dtype=dtype, dropout_key=None)

    return eval_step
