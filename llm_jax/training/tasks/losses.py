"""Losses as (sum, weight): the mean is sum / weight, over one batch or over many.

Logits are computed for a chunk of tokens at a time, forward and backward, so that [B, T, V] is never in memory. A
gradient needs the chunk's logits a second time, unless the loss is a weighted sum that is known beforehand: then it is
computed with them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from llm_jax.config import ModelConfig
from llm_jax.kernels import SummedMatrix, has_native_linear
from llm_jax.model import Params, head_params, merge

CPU_CHUNK_BYTES, GPU_CHUNK_BYTES = 2**26, 2**29  # of a chunk's logits in float32
FROZEN_CHUNK_BYTES = 2**25  # on a CPU, where no chunk has a gradient of the head to add up


def next_token_loss(
    config: ModelConfig, params: Params, hidden_BTD: Array, targets_BT: Array, weights_BT: Array
) -> tuple[Array, Array]:
    """Cross-entropy in nats, in float32. Targets are the inputs shifted by one; weight 0 leaves a position out.

    Args:
        hidden_BTD: the decoder's hidden states (`forward_hidden`).
    """
    weights_BT = weights_BT.astype(jnp.float32)
    if hidden_BTD.dtype == jnp.float16:  # whose gradients need the loss scale, which comes with the cotangent
        logp_BT, _ = token_log_probs(config, params, hidden_BTD, targets_BT)
        return -jnp.sum(logp_BT * weights_BT), jnp.sum(weights_BT)
    # The weights are negative, not the sum: of the factors 1 and -1, XLA multiplies a gradient by the second.
    total = _weighted_log_probs(config, head_params(config, params), hidden_BTD, targets_BT, -weights_BT)
    return total, jnp.sum(weights_BT)


def token_log_probs(config: ModelConfig, params: Params, hidden_BTD: Array, targets_BT: Array) -> tuple[Array, Array]:
    """Log-probabilities of the targets, and the logsumexp of all logits; both float32 [B, T].

    What every loss on tokens is made of; the mean of one over tokens is cheaper by `next_token_loss`.

    Args:
        params: those of the head are read, `head_params`.
        hidden_BTD: the decoder's hidden states (`forward_hidden`); the head computes in their dtype.
        targets_BT: int ids.
    """
    return _log_probs(config, head_params(config, params), hidden_BTD, targets_BT)


def squared_error(predicted_BO: Array, targets_BO: Array, weights_B: Array) -> tuple[Array, Array]:
    """Squared error, averaged over the outputs of an example."""
    error_B = jnp.square(predicted_BO.astype(jnp.float32) - targets_BO).mean(axis=-1)
    return jnp.sum(error_B * weights_B), jnp.sum(weights_B)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _log_probs(config: ModelConfig, head: Params, hidden_BTD: Array, targets_BT: Array) -> tuple[Array, Array]:
    """Log-probabilities and logsumexp [B, T]; the gradient computes the logits again."""
    head = _cast(head, hidden_BTD.dtype)

    def chunk(_: None, arrays: tuple[Array, ...]) -> tuple[None, tuple[Array, Array]]:
        return None, _probabilities(merge(config, head).head(arrays[0]), arrays[1])

    _, results = jax.lax.scan(chunk, None, _chunks(config, _limit(is_trained=False), hidden_BTD, targets_BT))
    logp_BT, logsumexp_BT = (_joined(x, targets_BT.shape[1]) for x in results)
    return logp_BT, logsumexp_BT


def _log_probs_forward(config: ModelConfig, *primals: Any) -> tuple[Any, Any]:
    trained, frozen = _split(primals[0])
    _, hidden_BTD, targets_BT = _values(primals)
    return _log_probs(config, trained | frozen, hidden_BTD, targets_BT), (trained, frozen, hidden_BTD, targets_BT)


def _log_probs_backward(config: ModelConfig, saved: Any, of_results: Any) -> tuple[Any, ...]:
    of_results = [jnp.zeros(x.shape) if isinstance(x, SymbolicZero) else x for x in of_results]
    _, of_head, of_hidden_BTD = _gradients(config, *saved, *of_results)
    return of_head, of_hidden_BTD, None


_log_probs.defvjp(_log_probs_forward, _log_probs_backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_log_probs(
    config: ModelConfig, head: Params, hidden_BTD: Array, targets_BT: Array, weights_BT: Array
) -> Array:
    """The sum of weight · log-probability. Where it is differentiated, its gradient is computed with it."""
    return jnp.sum(_log_probs(config, head, hidden_BTD, targets_BT)[0] * weights_BT)


def _weighted_forward(config: ModelConfig, *primals: Any) -> tuple[Array, Any]:
    _, hidden_BTD, targets_BT, weights_BT = _values(primals)
    of_logsumexp_BT = jnp.zeros_like(weights_BT)
    saved = *_split(primals[0]), hidden_BTD, targets_BT
    logp_BT, of_head, of_hidden_BTD = _gradients(config, *saved, weights_BT, of_logsumexp_BT)
    return jnp.sum(logp_BT * weights_BT), (of_head, of_hidden_BTD, logp_BT)


def _weighted_backward(config: ModelConfig, saved: Any, of_total: Array) -> tuple[Any, ...]:
    of_head, of_hidden_BTD, of_weights_BT = jax.tree.map(lambda x: (x * of_total).astype(x.dtype), saved)
    return of_head, of_hidden_BTD, None, of_weights_BT


_weighted_log_probs.defvjp(_weighted_forward, _weighted_backward, symbolic_zeros=True)


def _gradients(
    config: ModelConfig,
    trained: Params,
    frozen: Params,
    hidden_BTD: Array,
    targets_BT: Array,
    of_logp_BT: Array,
    of_logsumexp_BT: Array,
) -> tuple[Array, dict[str, Array | None], Array]:
    """Log-probabilities [B, T], and the gradients of the head (None for frozen parameters) and the hidden states."""
    trained_in_dtype, frozen_in_dtype = (_cast(params, hidden_BTD.dtype) for params in (trained, frozen))
    matrices = [name for name, x in trained.items() if name.endswith("weight") and x.ndim == 2]

    def chunk(sums: Params, arrays: tuple[Array, ...]) -> tuple[Params, tuple[Array, Array]]:
        hidden_BTD, targets_BT, of_logp_BT, of_logsumexp_BT = arrays
        summed = {name: SummedMatrix(trained_in_dtype[name], sums[name]) for name in matrices}

        def head(trained: dict[str, Any], hidden_BTD: Array) -> Array:
            return merge(config, trained | frozen_in_dtype).head(hidden_BTD)

        logits_BTV, pull_back = jax.vjp(head, trained_in_dtype | summed, hidden_BTD)
        logp_BT, logsumexp_BT = _probabilities(logits_BTV, targets_BT)
        is_target_BTV = jnp.arange(logits_BTV.shape[-1]) == targets_BT[..., None]
        probability_BTV = jnp.exp(logits_BTV - logsumexp_BT[..., None])
        of_logits_BTV = (of_logsumexp_BT - of_logp_BT)[..., None] * probability_BTV
        of_logits_BTV += jnp.where(is_target_BTV, of_logp_BT[..., None], 0)
        of_trained, of_hidden_BTD = pull_back(of_logits_BTV)
        for name, total in sums.items():
            x = of_trained[name]
            sums[name] = x.sum_OI if name in summed else total + x.astype(total.dtype)
        return sums, (logp_BT, of_hidden_BTD)

    sums = {name: jnp.zeros(x.shape, jnp.float32 if name in matrices else x.dtype) for name, x in trained.items()}
    limit = _limit(is_trained=bool(trained))
    chunks = _chunks(config, limit, hidden_BTD, targets_BT, of_logp_BT, of_logsumexp_BT)
    of_trained, results = jax.lax.scan(chunk, sums, chunks)
    logp_BT, of_hidden_BTD = (_joined(x, targets_BT.shape[1]) for x in results)
    of_trained = {name: x.astype(trained[name].dtype) for name, x in of_trained.items()}
    return logp_BT, {**dict.fromkeys(frozen), **of_trained}, of_hidden_BTD


def _probabilities(logits_BTV: Array, targets_BT: Array) -> tuple[Array, Array]:
    """Log-probabilities of the targets and the logsumexp [B, T]."""
    target_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
    logsumexp_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
    return target_BT - logsumexp_BT, logsumexp_BT


def _limit(*, is_trained: bool) -> int:
    """Bytes of a chunk's logits, where the head is trained or not."""
    if jax.default_backend() != "cpu":
        return GPU_CHUNK_BYTES
    return CPU_CHUNK_BYTES if is_trained else FROZEN_CHUNK_BYTES


def _chunks(config: ModelConfig, limit: int, *arrays: Array) -> tuple[Array, ...]:
    """Arrays [B, T, …] as equal chunks of T, padded with zeros: [chunks, B, tokens of a chunk, …]."""
    B, T = arrays[0].shape[:2]
    count = min(T, -(-4 * B * T * config.vocab_size // limit))
    size = -(-T // count)
    count = -(-T // size)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, 0), (0, count * size - T), *[(0, 0)] * (x.ndim - 2)])
        return padded.reshape(B, count, size, *x.shape[2:]).swapaxes(0, 1)

    return tuple(map(split, arrays))


def _joined(chunks: Array, T: int) -> Array:
    """What `_chunks` split."""
    count, B, size = chunks.shape[:3]
    return chunks.swapaxes(0, 1).reshape(B, count * size, *chunks.shape[3:])[:, :T]


def _cast(params: Params, dtype: jnp.dtype) -> Params:
    """Plain matrices in the dtype of the computation, once for all chunks, unless products round them themselves."""
    if has_native_linear(dtype):
        return params
    return {name: x.astype(dtype) if isinstance(x, Array) else x for name, x in params.items()}


def _values(primals: Any) -> Any:
    return jax.tree.map(lambda primal: primal.value, primals)


def _split(head: Any) -> tuple[Params, Params]:
    """Parameters whose gradient is wanted, and the others."""
    trained = [name for name, x in head.items() if any(primal.perturbed for primal in jax.tree.leaves(x))]
    values = _values(head)
    return {name: values[name] for name in trained}, {n: x for n, x in values.items() if n not in trained}
