"""Recomputation in the backward pass: it stores a function's input, and computes what the function does again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from llm_jax.kernels import afresh


def remat(function: Callable[..., Any], x: Array, *arguments: Any) -> Any:
    """function(x, *arguments); the backward pass computes it again from these. `function` closes over no array.

    As `jax.checkpoint`, whose barriers XLA's CPU compiler removes: it then finds the same products twice in one
    program, and keeps the first. Here they are in a branch that always runs, which the compiler cannot know.
    """
    if jax.default_backend() != "cpu":
        return jax.checkpoint(function)(x, *arguments)
    leaves, structure = jax.tree.flatten(arguments)
    return _run(lambda x, leaves: function(x, *jax.tree.unflatten(structure, leaves)), x, leaves)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(function: Callable[..., Any], x: Array, arguments: list[Array]) -> Any:
    return function(x, arguments)


def _forward(function: Callable[..., Any], x: Any, arguments: Any) -> tuple[Any, Any]:
    # Parameters whose gradient nobody wants have None among the trained ones, and the others among the frozen ones.
    trained = [primal.value if primal.perturbed else None for primal in arguments]
    frozen = [None if primal.perturbed else primal.value for primal in arguments]
    return function(x.value, _together(trained, frozen)), (x.value, trained, frozen)


def _backward(function: Callable[..., Any], saved: Any, of_out: Any) -> Any:
    of_out = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if isinstance(x, SymbolicZero) else x, of_out)

    def again(x: Array, trained: list[Any], frozen: list[Any], of_out: Any) -> Any:
        _, pull_back = jax.vjp(lambda x, trained: function(x, _together(trained, frozen)), x, trained)
        return pull_back(of_out)

    def never(x: Array, trained: list[Any], frozen: list[Any], of_out: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, (x, trained))

    always = jax.lax.rng_uniform(jnp.float32(0), jnp.float32(1), ()) < 2
    return jax.lax.cond(always, again, never, *saved, of_out)


_run.defvjp(_forward, _backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """function(*arguments), of which the backward pass stores the arguments alone: for what is cheap to compute again.

    What follows from the first argument alone is computed again. `function` closes over no array.
    """
    return function(*arguments)


def _recomputed_forward(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    return function(*arguments), arguments


def _recomputed_backward(function: Callable[..., Any], arguments: Any, of_out: Any) -> Any:
    first = afresh(arguments[0], jax.tree.leaves(of_out)[0])
    _, pull_back = jax.vjp(function, first, *arguments[1:])
    return pull_back(of_out)


recomputed.defvjp(_recomputed_forward, _recomputed_backward)


def _together(trained: list[Any], frozen: list[Any]) -> list[Array]:
    return [f if t is None else t for t, f in zip(trained, frozen, strict=True)]
