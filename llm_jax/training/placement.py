"""Where the arrays of a run lie: on one device, or spread over the mesh of all its processes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Self

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding

from llm_jax import parallel
from llm_jax.config import ModelConfig
from llm_jax.data import Batch
from llm_jax.errors import ConfigError
from llm_jax.model import Params, param_sharding
from llm_jax.training.config import DistributedConfig
from llm_jax.training.step import TrainState


def join(distributed: DistributedConfig) -> None:
    """Join the processes of a run; the first thing that each of them does with JAX.

    Raises:
        ConfigError: they cannot be joined.
    """
    if distributed.mesh is not None or distributed.num_nodes > 1 or distributed.auto_detect:
        # XLA's devices on a CPU share a pool of threads; two programs of which each waits for all devices use it up.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    if distributed.auto_detect:
        parallel.join_processes()
    elif distributed.num_nodes > 1:
        address = f"{distributed.master_addr}:{distributed.master_port}"
        parallel.join_processes(address, distributed.num_nodes, distributed.node_rank)


@dataclass(frozen=True)
class Placement:
    """Rows of a batch are divided among the mesh's axes data and fsdp; parameters by the rules of `parallel`.

    Attributes:
        mesh: None for one device.
        config: of the decoder that is trained; None for another model, whose parameters are whole on every device.
    """

    mesh: Mesh | None
    config: ModelConfig | None

    @classmethod
    def of(cls, distributed: DistributedConfig, config: ModelConfig | None, batch_size: int) -> Self:
        """The mesh of distributed.mesh over the devices of all processes.

        Raises:
            ConfigError: it needs more devices than there are, leaves out some of a run of several processes, or has
                more parts of a batch than divide it evenly.
        """
        wanted, count = distributed.mesh, len(jax.devices())
        if wanted is None and jax.process_count() == 1:
            return cls(None, config)
        fsdp, model = (wanted.fsdp, wanted.model) if wanted else (1, 1)
        data = wanted.data if wanted and wanted.data is not None else max(1, count // (fsdp * model))
        if jax.process_count() > 1 and data * fsdp * model != count:
            raise ConfigError(
                f"distributed.mesh has {data} x {fsdp} x {model} devices, but the {jax.process_count()} processes of "
                f"this run have {count}. Its sizes must multiply to that; leave out data to have it follow."
            )
        if batch_size % (data * fsdp):
            raise ConfigError(
                f"training.batch_size is {batch_size}; data x fsdp of distributed.mesh ({data} x {fsdp}) must "
                "divide it."
            )
        return cls(parallel.make_mesh(data=data, fsdp=fsdp, model=model), config)

    @property
    def devices(self) -> int:
        return 1 if self.mesh is None else self.mesh.size

    @property
    def parts(self) -> int:
        """How many parts a batch has; its rows are divided evenly among them."""
        return 1 if self.mesh is None else self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def rows(self, micro_batches: int, size: int) -> tuple[int, ...] | None:
        """The rows of a batch [micro-batches · size] that this process has; None for all."""
        if self.mesh is None or jax.process_count() == 1:
            return None
        shares = parallel.sharding(self.mesh, ("batch",), (size,)).addressable_devices_indices_map((size,))
        held = {row for share in shares.values() if share for row in range(*share[0].indices(size))}
        return tuple(batch * size + row for batch in range(micro_batches) for row in sorted(held))

    def put_batch(self, batch: Batch, size: int, *, axis: int) -> Batch:
        """Rows that this process made -> arrays over the mesh, with `size` rows along `axis`."""
        mesh = self.mesh
        if mesh is None:
            return batch

        def put(value: np.ndarray) -> Any:
            shape = (*value.shape[:axis], size, *value.shape[axis + 1 :])
            axes = [None] * axis + ["batch"] + [None] * (value.ndim - axis - 1)
            return jax.make_array_from_process_local_data(parallel.sharding(mesh, axes, shape), value, shape)

        return {name: put(value) for name, value in batch.items()}

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """Arrays that are made in the block lie in the host's memory, where they are to be spread over devices none of
        which may have memory for all."""
        hosts = []
        if self.mesh is not None:
            with suppress(RuntimeError):  # JAX_PLATFORMS may leave the host out
                hosts = jax.local_devices(backend="cpu")
        with jax.default_device(hosts[0]) if hosts else nullcontext():
            yield

    def put_params(self, params: Params) -> Params:
        """Parameters that every process has -> arrays over the mesh."""
        if self.mesh is None:
            return params

        def put(value: Any, sharding: Sharding) -> Any:
            host = np.asarray(value)
            return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

        return jax.tree.map(put, params, self.shardings(params))

    def shardings(self, tree: Any) -> Any:
        """The sharding of each array of parameters, or of what an optimiser has for each of them."""
        if self.mesh is None:
            return None
        mesh, config = self.mesh, self.config

        def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            if config is None or leaf.ndim < 2 or not isinstance(path[-1], jax.tree_util.DictKey):
                return parallel.replicated(mesh)
            found = param_sharding(config, str(path[-1].key), leaf.shape, mesh)
            # A teacher has heads of another number than the student, whose configuration this is.
            return found if _divides(found, leaf.shape) else parallel.replicated(mesh)

        return jax.tree.map_with_path(sharding, tree)

    def build(self, make: Callable[[Params], TrainState], params: Params, shardings: Any) -> TrainState:
        """The state that belongs to parameters, made where it is to lie."""
        return make(params) if shardings is None else jax.jit(make, out_shardings=shardings)(params)

    def like(self, tree: Any) -> Any:
        """The same ShapeDtypeStructs, with their shardings."""
        if self.mesh is None:
            return tree
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.shardings(tree),
        )


def collected(params: Params) -> Params:
    """Parameters in the host's memory where they are spread over a mesh, as they are where they are not."""

    def collect(value: Any) -> Any:
        return parallel.on_host(value) if isinstance(value, jax.Array) and len(value.devices()) > 1 else value

    return {name: jax.tree.map(collect, value) for name, value in params.items()}


def _divides(sharding: NamedSharding, shape: tuple[int, ...]) -> bool:
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True
