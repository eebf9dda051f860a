"""Many training runs at once: on subsets of the data, from different seeds."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from unlearnjax import checks
from unlearnjax.training.fit import Training, fit, init_variables, recipe
from unlearnjax.types import Array, Data, PyTree, Task, Variables

AXES = ("auto", "vmap", "map")
MODELS = "model"


def random_subsets(rng: Array, num_models: int, num_examples: int, share: float = 0.5) -> Array:
    """`[M, n]` indices: for each model a random subset of exactly `n = round(share N)`, sorted."""
    checks.open_share(share=share)
    size = max(1, round(share * num_examples))
    keys = jax.random.split(rng, num_models)
    orders = jax.vmap(lambda key: jax.random.permutation(key, num_examples))(keys)
    return jnp.sort(orders[:, :size], axis=1)


def subset_masks(subsets: Array, num_examples: int) -> Array:
    """`[M, n]` indices to `[M, N]` bool, what datamodels regress on; `mask_indices` undoes it."""
    return jax.vmap(lambda rows: jnp.zeros(num_examples, bool).at[rows].set(True))(subsets)


def random_masks(rng: Array, num_models: int, num_examples: int, share: float = 0.5) -> Array:
    """`[M, N]` bool: `random_subsets` as masks."""
    return subset_masks(random_subsets(rng, num_models, num_examples, share), num_examples)


def mask_indices(masks: Array) -> Array:
    """`[M, N]` masks to `[M, n]` indices, n the largest subset; smaller ones are padded with -1."""
    masks = np.asarray(masks)
    size = int(masks.sum(1).max())
    rows = [np.flatnonzero(mask) for mask in masks]
    padded = [np.pad(row, (0, size - len(row)), constant_values=-1) for row in rows]
    return jnp.asarray(np.stack(padded), jnp.int32)


def train_ensemble(
    task: Task,
    tx: Training,
    data: Data,
    subsets: Array,
    rngs: Array,
    keep: Callable[[Variables, Data], PyTree],
    *,
    num_epochs: int,
    batch_size: int,
    start: Variables | None = None,
    axis: str = "auto",
    mesh: Mesh | None = None,
) -> PyTree:
    """Trains a model per subset, as one program, and returns what `keep` makes of each.

    Model m depends on `subsets[m]` and `rngs[m]` alone: the same in any chunk and on any number of
    devices, up to rounding (batched matrix products round differently). To train more models than
    fit, call it in chunks of one size, under `jit`, so that they share one compiled program:

        fit = jax.jit(lambda subsets, rngs: train_ensemble(task, tx, data, subsets, rngs, ...))

    Args:
      task, tx, num_epochs, batch_size, start: see `training.train`.
      data: device-resident arrays `[N, ...]`, shared by all.
      subsets: `[M, n]` indices; negative entries are padding (`mask_indices`).
      rngs: `[M]` keys.
      keep: `(variables, data) -> tree` of a deployed model, e.g. margins on the data; models
        themselves are not stored.
      axis: 'vmap' trains all at once, 'map' one after another within the program; 'auto' is 'map'
        for convolutional models on a CPU, where batching kernels over models is slower, else
        'vmap'.
      mesh: of one axis, to spread models over (`model_mesh`, or the mesh of a run); its size must
        divide M.

    Returns:
      The kept trees, stacked: leaves `[M, ...]`. Memory: M models with optimizer state ('vmap') or
      one ('map'), per device.

    Raises:
      ValueError: for an unknown `axis`, differing numbers of subsets and keys, or a number of
        models that the mesh does not divide.

    Examples:
      >>> from unlearnjax import models, tasks, training
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> inputs = jax.random.normal(jax.random.key(0), (9, 4))
      >>> data = {"inputs": inputs, "targets": jnp.arange(9) % 3}
      >>> halves = jnp.array([[0, 1, 2, 3], [5, 6, 7, 8]])
      >>> margins = train_ensemble(
      ...     task,
      ...     optax.sgd(0.1),
      ...     data,
      ...     halves,
      ...     jax.random.split(jax.random.key(1), 2),
      ...     lambda variables, data: training.evaluate(task, variables, data)["margin"],
      ...     num_epochs=1,
      ...     batch_size=4,
      ... )
      >>> margins.shape  # of both models on all nine examples
      (2, 9)
    """
    checks.one_of(axis=(axis, AXES))
    if len(subsets) != len(rngs):
        raise ValueError(f"subsets and rngs must be equally many, got {len(subsets)}, {len(rngs)}")

    trained = recipe(task, tx)

    def one(member, data):
        indices, rng = member
        variables, _ = fit(
            trained,
            data,
            indices,
            rng,
            num_epochs=num_epochs,
            batch_size=min(batch_size, indices.shape[0]),
            start=start,
        )
        return keep(variables, data)

    axis = fastest_axis(task, data) if axis == "auto" else axis
    run = jax.jit(partial(over_models, one, axis=axis, mesh=mesh))
    return run((subsets, rngs), dict(data))


def over_models(
    fn: Callable[..., PyTree],
    members: PyTree,
    *shared: PyTree,
    axis: str,
    mesh: Mesh | None = None,
) -> PyTree:
    """`fn` of every member of a stacked tree, as `train_ensemble` does it.

    Args:
      fn: of one member and what is shared, e.g. `((variables, rng), data) -> margins`. What it
        closes over must not lie on several devices.
      members: leaves `[M, ...]`.
      shared: the same for all members.
      axis: 'vmap' or 'map'.
      mesh: of one axis, to spread the members over.

    Raises:
      ValueError: for an unknown `axis`, or a number of models that the mesh does not divide.
    """
    checks.one_of(axis=(axis, AXES[1:]))

    def several(members, *shared):
        one = lambda member: fn(member, *shared)
        return jax.vmap(one)(members) if axis == "vmap" else jax.lax.map(one, members)

    if mesh is None:
        return several(members, *shared)
    count = len(jax.tree.leaves(members)[0])
    if count % mesh.size:
        raise ValueError(
            f"the number of models must be a multiple of the {mesh.size} devices, got {count}"
        )
    part, whole = PartitionSpec(*mesh.axis_names), PartitionSpec()
    specs = (part, *(whole for _ in shared))
    spread = jax.shard_map(several, mesh=mesh, in_specs=specs, out_specs=part, check_vma=False)
    return spread(members, *shared)


def model_mesh(devices: Any = None) -> Mesh:
    """A one-dimensional mesh ('model',) over `devices` (default: all)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), (MODELS,))


def fastest_axis(task: Task, data: Data) -> str:
    """'map' for convolutional models on a CPU, else 'vmap'."""
    variables = jax.eval_shape(lambda rng: init_variables(task, data, rng), jax.random.key(0))
    convolutional = any(leaf.ndim > 2 for leaf in jax.tree.leaves(variables["params"]))
    return "map" if convolutional and jax.default_backend() == "cpu" else "vmap"
