"""Name tables: how a family's tensors become ours, and ours become theirs.

Each rule ties some of our parameters to some of theirs. Both sides, laid one behind the other along their rows,
are the same matrix (up to a transposition), so one table is read in both directions: fuse q, k and v into ours, or
cut ours into q, k and v.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from llm_jax.checkpoint import tensors
from llm_jax.checkpoint.tensors import Shape, Tensor, cut, join, reshaped, stack
from llm_jax.config import ModelConfig
from llm_jax.errors import CheckpointError
from llm_jax.model import param_shapes


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


def read_names(table: Sequence[Rule], config: ModelConfig, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our parameters from their tensors; nothing is read until it is used.

    Raises:
        CheckpointError: lists every tensor of theirs that is missing, that no rule uses, or whose shape is not what
            `config` says.
    """
    params: dict[str, Tensor] = {}
    missing: list[str] = []
    misshaped: list[str] = []
    used: set[str] = set()
    for rule, our_shapes, their_names in _spelled_out(table, config):
        used.update(their_names)
        absent = [name for name in their_names if name not in theirs]
        missing += absent
        if absent:
            continue
        found = [theirs[name] for name in their_names]
        expected = _their_shapes(rule, config, list(our_shapes.values()), len(found))
        wrong = [
            f"{name} is {_show(tensor.shape)} where {_show(shape)} is expected"
            for name, tensor, shape in zip(their_names, found, expected, strict=True)
            if tensor.shape != shape
        ]
        misshaped += wrong
        if not wrong:
            params |= _to_ours(rule, our_shapes, found)
    _report(missing=missing, unexpected=[name for name in theirs if name not in used], misshaped=misshaped)
    return params


def write_names(table: Sequence[Rule], config: ModelConfig, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their names and tensors from our parameters, rule by rule; nothing is read until it is used."""
    theirs: dict[str, Tensor] = {}
    for rule, our_shapes, their_names in _spelled_out(table, config):
        pieces = _to_theirs(rule, config, [params[name] for name in our_shapes], len(their_names))
        theirs |= zip(their_names, pieces, strict=True)
    return theirs


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


def _to_ours(rule: Rule, our_shapes: dict[str, Shape], theirs: list[Tensor]) -> dict[str, Tensor]:
    if rule.per_expert:
        return dict.fromkeys(our_shapes, stack(theirs))
    whole = tensors.transposed(theirs[0]) if rule.transpose else join(theirs)
    return dict(zip(our_shapes, cut(whole, [shape[0] for shape in our_shapes.values()]), strict=True))


def _to_theirs(rule: Rule, config: ModelConfig, ours: list[Tensor], pieces: int) -> list[Tensor]:
    if rule.per_expert:
        return [reshaped(one, one.shape[1:]) for one in cut(ours[0], [1] * pieces)]
    whole = join(ours)
    if rule.transpose:
        return [tensors.transposed(whole)]
    return cut(whole, rule.rows(config)) if rule.rows else [whole]


def _show(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"
