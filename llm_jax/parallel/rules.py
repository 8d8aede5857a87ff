"""Which mesh axis a dimension is sharded on: rules from logical axis names to mesh axes.

Arrays name their dimensions by what they count ("heads", "embed" …); only this table knows which of them are sharded.
A dimension that the mesh axis does not divide is replicated.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

RULES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),  # model width
    "heads": ("model",),
    "ffn": ("model",),
    "vocab": ("model",),
    "expert": (),
}


def sharding(mesh: Mesh, axes: Sequence[str | None], counts: Sequence[int]) -> NamedSharding:
    """The sharding of an array.

    Args:
        axes: the logical name of each dimension; None for one that is never sharded.
        counts: how many units each dimension has that must not be split, such as heads.
    """

    def mesh_axes_of(axis: str | None, count: int) -> tuple[str, ...] | None:
        mesh_axes = tuple(name for name in RULES[axis] if mesh.shape[name] > 1) if axis else ()
        parts = math.prod(mesh.shape[name] for name in mesh_axes)
        return mesh_axes if mesh_axes and count % parts == 0 else None

    return NamedSharding(mesh, PartitionSpec(*map(mesh_axes_of, axes, counts)))


def parts(placed: NamedSharding) -> int:
    """How many shards an array has."""
    names = [name for axes in placed.spec if axes for name in ((axes,) if isinstance(axes, str) else axes)]
    return math.prod(placed.mesh.shape[name] for name in names)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Constrains arrays to be whole on every device, so that what takes them is compiled once. Call it inside jit."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, replicated(mesh))


def whole_rows(table: Any) -> Any:
    """Gathers the rows of a table [V, D] that `fsdp` divides, where `jax.set_mesh` has set a mesh: ids are looked up by
    devices that have different ids, and XLA would gather the result for all of them instead."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.shape.get("fsdp", 1) == 1:
        return table
    model = mesh.shape.get("model", 1)
    vocab = "model" if model > 1 and table.shape[0] % model == 0 else None
    return jax.lax.with_sharding_constraint(table, PartitionSpec(vocab, None))


def rows_in_place(x: Any) -> Any:
    """Constrains an array [B, …] to be sharded along B as batches are, on the mesh that `jax.set_mesh` has set, if any.

    Without it XLA may shard activations as it finds the parameters, and exchange them between devices in every layer.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name in RULES["batch"] if mesh.shape.get(name, 1) > 1)
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *[None] * (x.ndim - 1)))
