"""Batches of fixed shape from data sets of any length.

A negative entry -1 - i among indices is padding: it takes example i, with weight 0.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax.types import Array, Batch, Data


def num_examples(data: Data) -> int:
    """Length N of the leading axis; raises `ValueError` if the arrays of `data` disagree."""
    lengths = {name: len(value) for name, value in data.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"data must have one leading axis length, got {lengths}")
    return next(iter(lengths.values()))


def steps_per_epoch(num_indices: int, batch_size: int) -> int:
    """Batches that cover `num_indices`, the last one padded."""
    return -(-num_indices // batch_size)


def validate_batch_size(batch_size: int, num_indices: int, name: str = "batch_size") -> None:
    """Raises `ValueError` unless 1 <= batch_size <= num_indices."""
    if not 1 <= batch_size <= num_indices:
        raise ValueError(
            f"{name} must be between 1 and the number of examples ({num_indices}), got {batch_size}"
        )


def pad_indices(indices: Array, batch_size: int) -> Array:
    """`[n]` indices to `[ceil(n / batch_size), batch_size]`, filled up with -1.

    Examples:
      >>> pad_indices(jnp.arange(5), 3).tolist()
      [[0, 1, 2], [3, 4, -1]]
    """
    missing = -indices.shape[0] % batch_size
    return jnp.pad(indices, (0, missing), constant_values=-1).reshape(-1, batch_size)


def position(indices: Array) -> Array:
    """Which example each index takes, padding or not."""
    return jnp.where(indices >= 0, indices, -1 - indices)


def epoch_order(rng: Array, indices: Array, batch_size: int) -> Array:
    """One shuffled epoch over `indices`, as `[steps, batch_size]`.

    Padding takes other examples of the subset, so that the batch statistics of a padded batch are
    those of a full one.

    Args:
      rng: key of this epoch.
      indices: `[n]` positions in the data set; negative entries are padding (so that subsets of
        different sizes can be stacked for `vmap`) and are spread over the epoch.
      batch_size: B.
    """
    order = pad_indices(jax.random.permutation(rng, indices), batch_size).ravel()
    valid = order >= 0
    # The valid entries first, repeated as often as it takes.
    members = order[jnp.argsort(~valid, stable=True)]
    repeated = members[jnp.arange(order.size) % jnp.maximum(valid.sum(), 1)]
    return jnp.where(valid, order, -1 - position(repeated)).reshape(-1, batch_size)


def take(data: Data, indices: Array) -> Batch:
    """The examples of `data` at `indices` `[B]`, with `weight` 0 where the index is negative.

    A `weight` that `data` already has (per-example weights) is multiplied in. Fields that are no
    numbers are left out, see `numeric`.

    Examples:
      >>> take({"inputs": jnp.array([10.0, 20.0, 30.0])}, jnp.array([2, -1]))["weight"].tolist()
      [1.0, 0.0]
    """
    valid = indices >= 0
    rows = position(indices)
    batch = {name: jnp.asarray(value)[rows] for name, value in data.items() if _is_numeric(value)}
    weight = valid.astype(jnp.float32)
    return {**batch, "weight": weight * batch["weight"] if "weight" in batch else weight}


def weights(data: Data) -> Array:
    """`[N]` weights of the examples: those of `data`, or ones.

    Examples:
      >>> weights({"inputs": jnp.zeros((2, 3))}).tolist()
      [1.0, 1.0]
    """
    return jnp.asarray(data["weight"]) if "weight" in data else jnp.ones(num_examples(data))


def numeric(data: Data) -> Data:
    """The fields that a device holds: booleans and numbers, 64 bits cut to 32 unless jax has them.

    Text, bytes, dates and objects stay behind on the host, where forget sets are chosen by them.

    Examples:
      >>> sorted(numeric({"inputs": np.ones(2), "who": np.array(["ann", "bob"])}))
      ['inputs']
    """
    return {name: _narrowed(value) for name, value in data.items() if _is_numeric(value)}


def _is_numeric(value: Any) -> bool:
    # By type, never by value, so that all parts of a data set keep the same fields.
    if isinstance(value, jax.Array):
        return True
    dtype = np.asarray(value).dtype
    return any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool))


def _narrowed(value: Any) -> Any:
    if isinstance(value, jax.Array):
        return value
    value = np.asarray(value)
    with np.errstate(over="ignore"):
        return value.astype(jax.dtypes.canonicalize_dtype(value.dtype), copy=False)
