"""Low-rank adaptation: a frozen model with small trainable factors beside its linear maps (arXiv:2106.09685).

A module of an adapter stands beside the rows of one linear map or of several, because files divide them in other ways
than this decoder does: q, k and v have factors of their own beside one fused matrix, and a fused gate has one pair of
factors beside two. Its parameters have the names that PEFT's files hold: `….lora_A.weight` [r, I],
`….lora_B.weight` [O, r] and, of DoRA, `….lora_magnitude_vector` [O].
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from llm_jax.model.model import Params

_PURPOSE = 0x10CA  # of the adapter's dropout keys; no number of a layer


class Rows(NamedTuple):
    """Consecutive outputs of a linear map, such as the keys of `transformer_blocks.0.self_attn.qkv_proj`."""

    linear: str
    start: int
    size: int


@dataclass(frozen=True)
class LoraModule:
    """One pair of factors, of the change scale · B A.

    Attributes:
        name: in files, such as model.layers.0.self_attn.k_proj.
        outputs: the rows that the change is added to, in the order of B's.
        dora: the rows of the sum are normalised and have learnt magnitudes (arXiv:2402.09353).
    """

    name: str
    outputs: tuple[Rows, ...]
    inputs: int
    rank: int
    scale: float
    dora: bool = False

    @property
    def size_out(self) -> int:
        return sum(rows.size for rows in self.outputs)

    @property
    def a(self) -> str:
        return f"{self.name}.lora_A.weight"

    @property
    def b(self) -> str:
        return f"{self.name}.lora_B.weight"

    @property
    def magnitude(self) -> str:
        return f"{self.name}.lora_magnitude_vector"

    def parts(self) -> Iterator[tuple[Rows, slice]]:
        """Its outputs, and where they are among the rows of B."""
        at = 0
        for rows in self.outputs:
            yield rows, slice(at, at + rows.size)
            at += rows.size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The names and shapes of its parameters."""
        shapes: dict[str, tuple[int, ...]] = {
            self.a: (self.rank, self.inputs),
            self.b: (self.size_out, self.rank),
        }
        return shapes | ({self.magnitude: (self.size_out,)} if self.dora else {})


@dataclass(frozen=True)
class Adapter:
    """Which linear maps of a model have low-rank factors beside them, and of which rank.

    Attributes:
        dropout: of the factors' inputs, in training.
    """

    modules: tuple[LoraModule, ...]
    dropout: float = 0.0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The names and shapes of all parameters."""
        return {name: shape for module in self.modules for name, shape in module.shapes().items()}


class LowRank(NamedTuple):
    """The change of a whole linear map, y + B (A x): what an engine computes beside its product.

    Attributes:
        a_QI: the factors of all modules beside it, one below the other.
        b_OQ: block-diagonal where the modules have different rows; their scales are multiplied in.
        gain_O: of DoRA, the factor of each output of the sum, without its bias; None elsewhere.
    """

    a_QI: Array
    b_OQ: Array
    gain_O: Array | None


def init_lora(adapter: Adapter, base: Mapping[str, Any], seed: int) -> Params:
    """The initial parameters, float32: A uniform within 1/sqrt(I), as PEFT has it, B zero, so that nothing changes."""
    params: Params = {}
    for i, module in enumerate(adapter.modules):
        bound, key = module.inputs**-0.5, jax.random.fold_in(jax.random.key(seed), i)
        params[module.a] = jax.random.uniform(key, (module.rank, module.inputs), minval=-bound, maxval=bound)
        params[module.b] = jnp.zeros((module.size_out, module.rank))
        if module.dora:
            params[module.magnitude] = jnp.linalg.norm(_weight(module, base), axis=-1)
    return params


def low_rank(adapter: Adapter, lora: Mapping[str, Array], base: Mapping[str, Any]) -> dict[str, LowRank]:
    """The factors by linear map, float32.

    Args:
        base: the model's parameters; only DoRA reads them, as plain matrices.
    """
    found: dict[str, list[_Part]] = {}
    for module in adapter.modules:
        a_QI, b_OQ = lora[module.a], lora[module.b] * module.scale
        gain_O = lora[module.magnitude] / _norms(module, lora, base) if module.dora else None
        for rows, part in module.parts():
            gain = None if gain_O is None else gain_O[part]
            found.setdefault(rows.linear, []).append(_Part(rows, LowRank(a_QI, b_OQ[part], gain)))
    return {linear: _combined(base[f"{linear}.weight"].shape[0], parts) for linear, parts in found.items()}


def adapted(
    adapter: Adapter, lora: Mapping[str, Array], base: Mapping[str, Any], *, dropout_key: Array | None = None
) -> Params:
    """The parameters of the model with its adapter, for `forward`: those of the base are neither copied nor changed.

    Gradients reach `lora` through them. The sum need not fit the base's dtype, as it must in a merged model.

    Args:
        dropout_key: switches the adapter's dropout on.
    """
    params: Params = dict(base)
    for i, (linear, (a_QI, b_OQ, gain_O)) in enumerate(low_rank(adapter, lora, base).items()):
        params |= {f"{linear}.lora.a": a_QI, f"{linear}.lora.b": b_OQ}
        if gain_O is not None:
            params[f"{linear}.lora.gain"] = gain_O
        if dropout_key is not None and adapter.dropout > 0.0:
            # The decoder folds its layers' numbers into the same key: the masks of both would be equal.
            params[f"{linear}.lora.key"] = jax.random.fold_in(jax.random.fold_in(dropout_key, _PURPOSE), i)
            params[f"{linear}.lora.rate"] = jnp.float32(adapter.dropout)
    return params


def merged_weight(linear: str, weight_OI: Any, adapter: Adapter, lora: Mapping[str, Any]) -> np.ndarray:
    """A weight with the changes of all modules beside it, computed in float32; of the weight's own dtype."""
    merged_OI = np.array(weight_OI, np.float32)
    for module in adapter.modules:
        for rows, part in module.parts():
            if rows.linear != linear:
                continue
            a_QI, b_OQ = (np.asarray(lora[name], np.float32) for name in (module.a, module.b))
            rows_OI = merged_OI[rows.start : rows.start + rows.size]
            rows_OI += b_OQ[part] @ a_QI * np.float32(module.scale)
            if module.dora:
                magnitude_O = np.asarray(lora[module.magnitude], np.float32)[part]
                rows_OI *= (magnitude_O / np.linalg.norm(rows_OI, axis=-1))[:, None]
    return merged_OI.astype(weight_OI.dtype, copy=False)


class _Part(NamedTuple):
    """The factors of one module beside some rows of a linear map."""

    rows: Rows
    factors: LowRank


def _combined(outputs: int, parts: Sequence[_Part]) -> LowRank:
    """The factors of all modules beside a linear map of so many outputs, as one pair."""
    if len(parts) == 1 and parts[0].rows.size == outputs:
        return parts[0].factors
    a_QI = jnp.concatenate([part.factors.a_QI for part in parts])
    b_OQ, gain_O, at = jnp.float32(0), jnp.float32(1), 0
    for (_, start, size), factors in parts:
        rank, below = factors.a_QI.shape[0], outputs - start - size
        b_OQ += jnp.pad(factors.b_OQ, ((start, below), (at, a_QI.shape[0] - at - rank)))
        at += rank
        if factors.gain_O is not None:
            gain_O += jnp.pad(factors.gain_O - 1, (start, below))
    return LowRank(a_QI, b_OQ, None if all(part.factors.gain_O is None for part in parts) else gain_O)


def _weight(module: LoraModule, base: Mapping[str, Any]) -> Array:
    """The rows of the base's matrices that a module changes, float32 [O, I]."""
    parts = [base[f"{rows.linear}.weight"][rows.start : rows.start + rows.size] for rows in module.outputs]
    return jnp.concatenate([jnp.asarray(part, jnp.float32) for part in parts])


def _norms(module: LoraModule, lora: Mapping[str, Array], base: Mapping[str, Any]) -> Array:
    """|W + s B A| of each row, without the sum: |W|² + 2 s B·(W Aᵀ) + s² (B A Aᵀ)·B. DoRA takes it as constant."""
    weight_OI = _weight(module, base)
    a_QI, b_OQ = jax.lax.stop_gradient((lora[module.a], lora[module.b] * module.scale))
    square_O = jnp.square(weight_OI).sum(-1)
    square_O += (b_OQ * (2 * weight_OI @ a_QI.T + b_OQ @ (a_QI @ a_QI.T))).sum(-1)
    return jnp.sqrt(square_O)
