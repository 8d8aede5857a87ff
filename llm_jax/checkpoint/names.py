"""Name tables: the tensors in a family's files as parameters of this decoder, and back.

Each rule relates some parameters to some stored tensors. Both sides, concatenated along their rows, are the same
matrix (up to a transposition), so that one table works in both directions: q, k and v are fused into qkv_proj, and
qkv_proj is cut into q, k and v.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from llm_jax.checkpoint import tensors
from llm_jax.checkpoint.tensors import LazyTensor, Shape, Tensor, cut, join, reshaped, stack
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError
from llm_jax.model import param_shapes


@dataclass(frozen=True)
class Layout:
    """How one stored tensor holds several parameters, where it is no concatenation of their rows.

    Attributes:
        shape: of the stored tensor, from those of the parameters.
        read: the parameters, from the stored tensor.
        write: the inverse.
    """

    shape: Callable[[list[Shape]], Shape]
    read: Callable[[np.ndarray], list[np.ndarray]]
    write: Callable[[list[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """concat(params) == concat(stored), along the rows; for experts, params == stack(stored).

    Attributes:
        params, stored: names of parameters and of tensors in files. {i} counts layers, {e} experts.
        rows: the rows of each stored tensor, where there are several.
        transpose: the stored tensor is [in, out].
        layout: another relation than these.
    """

    params: tuple[str, ...]
    stored: tuple[str, ...]
    rows: Callable[[ModelConfig], Shape] | None = None
    transpose: bool = False
    layout: Layout | None = None

    @property
    def per_expert(self) -> bool:
        return "{e}" in self.stored[0]


def same(params: str, stored: str) -> Rule:
    """One tensor each, equal."""
    return Rule((params,), (stored,))


def linear(params: str, stored: str) -> tuple[Rule, Rule]:
    """The weight and the bias of a linear map or of a norm."""
    return same(f"{params}.weight", f"{stored}.weight"), same(f"{params}.bias", f"{stored}.bias")


def transposed(params: str, stored: str) -> Rule:
    """One matrix each; the stored one is [in, out]."""
    return Rule((params,), (stored,), transpose=True)


def qkv_rows(config: ModelConfig) -> Shape:
    """Rows of the query, key and value projections."""
    N, K, H = config.num_heads, config.kv_heads, config.head_size
    return N * H, K * H, K * H


def read_names(table: Sequence[Rule], config: ModelConfig, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters, as lazy tensors, from stored tensors.

    Raises:
        CheckpointError: lists every stored tensor that is missing, that no rule uses, or whose shape is not the one
            that follows from `config`.
    """
    params: dict[str, Tensor] = {}
    missing: list[str] = []
    misshaped: list[str] = []
    used: set[str] = set()
    for rule, shape_of, stored_names in _expanded(table, config):
        used.update(stored_names)
        not_found = [name for name in stored_names if name not in stored]
        missing += not_found
        if not_found:
            continue
        found = [stored[name] for name in stored_names]
        expected = _stored_shapes(rule, config, list(shape_of.values()), len(found))
        wrong = [
            f"{name} is {_show(tensor.shape)} where {_show(shape)} is expected"
            for name, tensor, shape in zip(stored_names, found, expected, strict=True)
            if tensor.shape != shape
        ]
        misshaped += wrong
        if not wrong:
            params |= _to_params(rule, shape_of, found)
    _report(missing=missing, unexpected=[name for name in stored if name not in used], misshaped=misshaped)
    return params


def write_names(table: Sequence[Rule], config: ModelConfig, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to store, as lazy tensors, from the parameters."""
    stored: dict[str, Tensor] = {}
    for rule, shape_of, stored_names in _expanded(table, config):
        parts = _to_stored(rule, config, [params[name] for name in shape_of], len(stored_names))
        stored |= zip(stored_names, parts, strict=True)
    return stored


def stored_matrices(table: Sequence[Rule], config: ModelConfig) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Each stored matrix that is rows of parameters, with these rows: (parameter, first row, number of rows)."""
    for rule, shape_of, stored_names in _expanded(table, config):
        if rule.layout is not None or rule.per_expert or any(len(shape) != 2 for shape in shape_of.values()):
            continue
        rows = [shape[0] for shape in shape_of.values()]
        start = 0
        for name, count in zip(stored_names, rule.rows(config) if rule.rows else (sum(rows),), strict=True):
            at, found = 0, []
            for param, size in zip(shape_of, rows, strict=True):
                first, last = max(start, at), min(start + count, at + size)
                if first < last:
                    found.append((param, first - at, last - first))
                at += size
            yield name, found
            start += count


def _report(**complaints: Iterable[str]) -> None:
    lines = [f"  {complaint}: {', '.join(names)}" for complaint, names in complaints.items() if names]
    if lines:
        raise CheckpointError("The weights do not fit the architecture in the configuration:\n" + "\n".join(lines))


def _expanded(table: Sequence[Rule], config: ModelConfig) -> Iterator[tuple[Rule, dict[str, Shape], tuple[str, ...]]]:
    """(rule, names and shapes of its parameters, names of its stored tensors), for every layer of this architecture."""
    shapes = {name: spec.shape for name, spec in param_shapes(config).items()}
    for rule in table:
        layers = range(config.num_layers) if "{i}" in rule.params[0] else range(1)
        for i in layers:
            params = [name.replace("{i}", str(i)) for name in rule.params]
            stored = [name.replace("{i}", str(i)) for name in rule.stored]
            if rule.per_expert:
                stored = [name.replace("{e}", str(e)) for e in range(config.num_experts) for name in stored]
            if all(name in shapes for name in params):
                yield rule, {name: shapes[name] for name in params}, tuple(stored)


def _stored_shapes(rule: Rule, config: ModelConfig, params: list[Shape], parts: int) -> list[Shape]:
    if rule.per_expert:
        return [params[0][1:]] * parts
    if rule.layout is not None:
        return [rule.layout.shape(params)]
    rows, rest = sum(shape[0] for shape in params), params[0][1:]
    if rule.transpose:
        return [(*rest, rows)]
    return [(count, *rest) for count in (rule.rows(config) if rule.rows else (rows,))]


def _to_params(rule: Rule, shape_of: dict[str, Shape], stored: list[Tensor]) -> dict[str, Tensor]:
    if rule.per_expert:
        return dict.fromkeys(shape_of, stack(stored))
    if rule.layout is not None:
        return {
            name: LazyTensor(shape, stored[0].dtype, partial(_laid_out, rule.layout, stored[0], index))
            for index, (name, shape) in enumerate(shape_of.items())
        }
    whole = tensors.transposed(stored[0]) if rule.transpose else join(stored)
    return dict(zip(shape_of, cut(whole, [shape[0] for shape in shape_of.values()]), strict=True))


def _to_stored(rule: Rule, config: ModelConfig, params: list[Tensor], parts: int) -> list[Tensor]:
    if rule.layout is not None:
        shape, write = rule.layout.shape([param.shape for param in params]), rule.layout.write
        return [LazyTensor(shape, params[0].dtype, lambda: write([np.asarray(param) for param in params]))]
    if rule.per_expert:
        return [reshaped(one, one.shape[1:]) for one in cut(params[0], [1] * parts)]
    whole = join(params)
    if rule.transpose:
        return [tensors.transposed(whole)]
    return cut(whole, rule.rows(config)) if rule.rows else [whole]


def _laid_out(layout: Layout, stored: Tensor, index: int) -> np.ndarray:
    return layout.read(np.asarray(stored))[index]


def _show(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
