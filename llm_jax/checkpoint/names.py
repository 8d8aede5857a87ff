"""Name tables: how a family's tensors become ours, and ours become theirs.

Each rule ties some of our parameters to some of theirs. Both sides, laid one behind the other along their rows,
are the same matrix (up to a transposition), so one table is read in both directions: fuse q, k and v into ours, or
cut ours into q, k and v.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError
from llm_jax.model import param_shapes

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """concat(ours) == concat(theirs), along the rows; for experts, stack(theirs) == ours.

    Attributes:
        ours, theirs: names. {i} counts layers, {e} experts.
        rows: how many rows each of theirs has, where they are several.
        transpose: theirs lies as [in, out].
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    rows: Callable[[ModelConfig], Shape] | None = None
    transpose: bool = False

    @property
    def per_expert(self) -> bool:
        return "{e}" in self.theirs[0]


def same(ours: str, theirs: str) -> Rule:
    """One tensor each, as it is."""
    return Rule((ours,), (theirs,))


def transposed(ours: str, theirs: str) -> Rule:
    """One matrix each; theirs lies as [in, out]."""
    return Rule((ours,), (theirs,), transpose=True)


def qkv_rows(config: ModelConfig) -> Shape:
    """Rows of the query, key and value projections."""
    N, K, H = config.num_heads, config.kv_heads, config.head_size
    return N * H, K * H, K * H


def own_table(config: ModelConfig) -> tuple[Rule, ...]:
    """The documented names, which are our own."""
    return tuple(same(name, name) for name in param_shapes(config))


def read_names(table: Sequence[Rule], config: ModelConfig, theirs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our parameters from their tensors.

    Raises:
        CheckpointError: lists every tensor of theirs that is missing, that no rule uses, or whose shape is not what
            `config` says.
    """
    params: dict[str, np.ndarray] = {}
    missing: list[str] = []
    misshaped: list[str] = []
    used: set[str] = set()
    for rule, our_shapes, their_names in _spelled_out(table, config):
        used.update(their_names)
        absent = [name for name in their_names if name not in theirs]
        missing += absent
        if absent:
            continue
        tensors = [theirs[name] for name in their_names]
        expected = _their_shapes(rule, config, list(our_shapes.values()), len(tensors))
        wrong = [
            f"{name} is {_show(tensor.shape)} where {_show(shape)} is expected"
            for name, tensor, shape in zip(their_names, tensors, expected, strict=True)
            if tensor.shape != shape
        ]
        misshaped += wrong
        if not wrong:
            params |= _to_ours(rule, our_shapes, tensors)
    _report(missing=missing, unexpected=[name for name in theirs if name not in used], misshaped=misshaped)
    return params


def write_names(
    table: Sequence[Rule], config: ModelConfig, params: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Their names and tensors from our parameters, rule by rule."""
    for rule, our_shapes, their_names in _spelled_out(table, config):
        ours = [np.asarray(params[name]) for name in our_shapes]
        yield from zip(their_names, _to_theirs(rule, config, ours, len(their_names)), strict=True)


def _report(**complaints: Iterable[str]) -> None:
    lines = [f"  {kind}: {', '.join(names)}" for kind, names in complaints.items() if names]
    if lines:
        raise CheckpointError("The weights do not fit the architecture in the configuration:\n" + "\n".join(lines))


def _spelled_out(
    table: Sequence[Rule], config: ModelConfig
) -> Iterator[tuple[Rule, dict[str, Shape], tuple[str, ...]]]:
    """(rule, our names and shapes, their names) at every layer, for the parameters that this architecture has."""
    shapes = {name: spec.shape for name, spec in param_shapes(config).items()}
    for rule in table:
        layers = range(config.num_layers) if "{i}" in rule.ours[0] else range(1)
        for i in layers:
            ours = [name.replace("{i}", str(i)) for name in rule.ours]
            theirs = [name.replace("{i}", str(i)) for name in rule.theirs]
            if rule.per_expert:
                theirs = [name.replace("{e}", str(e)) for e in range(config.num_experts) for name in theirs]
            if all(name in shapes for name in ours):
                yield rule, {name: shapes[name] for name in ours}, tuple(theirs)


def _their_shapes(rule: Rule, config: ModelConfig, ours: list[Shape], pieces: int) -> list[Shape]:
    if rule.per_expert:
        return [ours[0][1:]] * pieces
    rows, rest = sum(shape[0] for shape in ours), ours[0][1:]
    if rule.transpose:
        return [(*rest, rows)]
    return [(count, *rest) for count in (rule.rows(config) if rule.rows else (rows,))]


def _to_ours(rule: Rule, our_shapes: dict[str, Shape], tensors: list[np.ndarray]) -> dict[str, np.ndarray]:
    if rule.per_expert:
        return dict.fromkeys(our_shapes, np.stack(tensors))
    whole = tensors[0].T if rule.transpose else _join(tensors)
    return dict(zip(our_shapes, _cut(whole, [shape[0] for shape in our_shapes.values()]), strict=True))


def _to_theirs(rule: Rule, config: ModelConfig, ours: list[np.ndarray], pieces: int) -> list[np.ndarray]:
    if rule.per_expert:
        return list(ours[0])
    whole = _join(ours)
    if rule.transpose:
        return [whole.T]
    return _cut(whole, rule.rows(config)) if rule.rows else [whole]


def _join(tensors: list[np.ndarray]) -> np.ndarray:
    return tensors[0] if len(tensors) == 1 else np.concatenate(tensors)


def _cut(whole: np.ndarray, rows: Sequence[int]) -> list[np.ndarray]:
    return np.split(whole, list(accumulate(rows))[:-1])


def _show(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
