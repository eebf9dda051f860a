"""Devices: one mesh, batches sharded over it, everything else replicated; multi-host start.

Written once, used by every step. Steps are written for a global batch and `constrain` it; under

    with jax.set_mesh(parallel.mesh()):
        ...

`jit` then computes each batch on all devices: one CPU, N GPUs, a TPU slice or many hosts.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unlearnjax import trees
from unlearnjax.types import PyTree

AXIS = "data"


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a multi-host run; call once, before any other jax call.

    Args:
      coordinator_address: `host:port` of process 0. All three `None`: taken from the cluster's
        environment (TPU pods, Slurm, Open MPI, Kubernetes), as `jax.distributed` finds it.
      num_processes: how many there are.
      process_id: this one's number, from 0.

    Raises:
      ValueError: if only some of the three are given.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(g is None for g in given) and any(g is not None for g in given):
        raise ValueError(
            "coordinator_address, num_processes and process_id must be given together or not at "
            f"all, got {given}"
        )
    jax.distributed.initialize(coordinator_address, num_processes, process_id)


def is_main_process() -> bool:
    """Whether this process writes the files."""
    return jax.process_index() == 0


def sync(name: str) -> None:
    """Waits until every process has come to the point `name`; nothing to wait for on one host."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def fetch(tree: PyTree) -> PyTree:
    """`tree` as NumPy arrays, whole on every host, wherever its parts lie."""

    def whole(leaf):
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def mesh(devices=None) -> Mesh:
    """A one-dimensional mesh ('data',) over `devices` (default: all of every host)."""
    devices = jax.devices() if devices is None else devices
    # Auto axes: the compiler places intermediate values, steps stay as for one device.
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))


def replicate(tree: PyTree, device_mesh: Mesh) -> PyTree:
    """`tree` with a copy of every leaf on every device. Every host must hold the same values."""
    return _place(tree, NamedSharding(device_mesh, PartitionSpec()))


def shard(batch: PyTree, device_mesh: Mesh) -> PyTree:
    """`batch` with the leading axis split over the devices; it must divide evenly.

    Every host passes the same global batch and keeps its part.
    """
    sharding = NamedSharding(device_mesh, PartitionSpec(AXIS))
    for leaf in jax.tree.leaves(batch):
        _validate_divisible(leaf.shape[0], device_mesh)
    return _place(batch, sharding)


def local_rows(num_rows: int, device_mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch this host's devices hold, in their order.

    Raises:
      ValueError: if the devices do not divide the batch.
    """
    _validate_divisible(num_rows, device_mesh)
    sharding = NamedSharding(device_mesh, PartitionSpec(AXIS))
    own = sharding.addressable_devices_indices_map((num_rows,)).values()
    return np.unique(np.concatenate([np.arange(num_rows)[index] for index in own]))


def from_local(batch: PyTree, device_mesh: Mesh) -> PyTree:
    """The global batch of which every host passes only its `local_rows`."""
    sharding = NamedSharding(device_mesh, PartitionSpec(AXIS))
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(sharding, np.asarray(leaf)), batch
    )


def split_shardings(tree: PyTree, device_mesh: Mesh, min_size: int = 2**12) -> PyTree:
    """Shardings that split every leaf over the devices, for models larger than one of them.

    A leaf is split along its longest axis that the devices divide; leaves without one, and those
    of fewer than `min_size` elements, are replicated. Place parameters and optimizer state by these
    and compile steps with them as `out_shardings`: `jit` then gathers each layer where it is used,
    and scatters its gradient (ZeRO stage 3, Rajbhandari et al., SC 2020; "FSDP").

    Args:
      tree: arrays, or their shapes.
      device_mesh: of one axis.
      min_size: gathering small leaves costs more than it saves.

    Returns:
      A tree of `NamedSharding`.
    """
    (axis,) = device_mesh.axis_names

    def of(leaf):
        lengths = [n if n % device_mesh.size == 0 else 0 for n in leaf.shape]
        if np.prod(leaf.shape) < min_size or not any(lengths):
            return NamedSharding(device_mesh, PartitionSpec())
        longest = int(np.argmax(lengths))
        return NamedSharding(device_mesh, PartitionSpec(*[None] * longest, axis))

    return jax.tree.map(of, tree)


def current() -> Mesh | None:
    """The mesh set by `jax.set_mesh`, or `None`."""
    device_mesh = jax.sharding.get_mesh()
    return None if device_mesh.empty else device_mesh


def num_parts(length: int) -> int:
    """Over how many devices `constrain` splits an axis of this length; 1 where it does not."""
    device_mesh = jax.sharding.get_abstract_mesh()
    if AXIS not in device_mesh.auto_axes or length % device_mesh.shape[AXIS]:
        return 1
    return device_mesh.shape[AXIS]


def constrain(batch: PyTree) -> PyTree:
    """Asks for `batch` split over the devices of the mesh set by `jax.set_mesh`.

    The identity where no mesh with an automatic 'data' axis is set (one device, or inside your own
    pmap/shard_map), and for leaves whose leading axis the devices do not divide.
    """

    def split(leaf):
        if num_parts(leaf.shape[0]) == 1:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(AXIS))

    return jax.tree.map(split, batch)


def per_device(tree: PyTree, axis_name: str) -> PyTree:
    """Under shard_map: marks replicated values as this device's own copy.

    Gradients by them are then this device's part, under shard_map as under pmap, and one explicit
    `psum` adds the parts; otherwise shard_map would already have added them.
    """

    # Adding this device's zero does it in every version of jax, under pmap too.
    zero = 0 * jax.lax.axis_index(axis_name)

    def own(leaf):
        return leaf + zero.astype(leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf

    return jax.tree.map(own, tree)


def average(tree: PyTree, axis_name: str) -> PyTree:
    """Means over the devices of a mapped axis; integers, of which each has the same, stay."""
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.inexact)
    return jax.tree.map(lambda x: jax.lax.pmean(x, axis_name) if is_float(x) else x, tree)


def _validate_divisible(num_rows: int, device_mesh: Mesh) -> None:
    if num_rows % device_mesh.size:
        raise ValueError(
            f"the batch axis must be a multiple of the {device_mesh.size} devices, got {num_rows}"
        )


def _place(tree: PyTree, sharding: NamedSharding) -> PyTree:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(leaf):
        if trees.is_key(leaf):
            raw = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(raw, impl=jax.random.key_impl(leaf))
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, tree)
