"""In which order a loop passes over the rows of several parts."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from unlearnjax import data as data_lib
from unlearnjax.types import Array

# (key, epoch) -> [steps, B] rows; negative entries are padding, see `data.batching`
Order = Callable[[Array, Array], Array]
ORDERS = ("union", "paired", "alternate")


def order(
    over: str,
    rows: Mapping[str, Array],
    batch_size: int,
    *,
    along: str | None = None,
    epochs: Mapping[str, int] | None = None,
) -> Order:
    """An order of the rows of parts.

    Args:
      over: 'union': all rows, shuffled together. 'paired': those of the part `along`, every step
        with a batch of each other part beside it, which is gone through as often as it takes.
        'alternate': one part after another, in batches of one kind.
      rows: `{part: [n] rows}`.
      batch_size: of each part for 'paired' and 'alternate'; capped at the size of a part.
      along: see `over`; default the last part.
      epochs: for 'alternate', in how many epochs, from the first, a part takes part; default all.
    """
    if over == "union":
        return _union(jnp.concatenate(list(rows.values())), batch_size)
    if over == "paired":
        return _paired(rows, along or list(rows)[-1], batch_size)
    return _alternate(rows, batch_size, epochs or {})


def cut(full: Order, num_steps: int) -> tuple[Order, int]:
    """The order with padding, which is skipped, after `num_steps`; and the epochs that takes."""
    steps = jax.eval_shape(full, jax.random.key(0), jnp.int32(0)).shape[0]

    def shortened(key, epoch):
        rows = full(key, epoch)
        late = epoch * steps + jnp.arange(steps) >= num_steps
        return jnp.where(late[:, None], _padding(rows), rows)

    return shortened, data_lib.steps_per_epoch(num_steps, steps)


def _union(rows: Array, batch_size: int) -> Order:
    return lambda key, epoch: _shuffled(key, rows, batch_size)


def _paired(parts: Mapping[str, Array], along: str, batch_size: int) -> Order:
    others = {name: rows for name, rows in parts.items() if name != along}

    def paired(key, epoch):
        del epoch
        along_key, *keys = jax.random.split(key, len(parts))
        rows = _shuffled(along_key, parts[along], batch_size)
        besides = [
            _repeated(k, other, batch_size, rows.shape[0])
            for k, other in zip(keys, others.values(), strict=True)
        ]
        return jnp.concatenate([*besides, rows], axis=1)

    return paired


def _alternate(parts: Mapping[str, Array], batch_size: int, epochs: Mapping[str, int]) -> Order:
    def alternate(key, epoch):
        keys = jax.random.split(key, len(parts))
        every = []
        for k, (name, part) in zip(keys, parts.items(), strict=True):
            rows = _shuffled(k, part, batch_size)
            if name in epochs:  # later on, batches of padding, which are skipped
                rows = jnp.where(epoch < epochs[name], rows, _padding(rows))
            every.append(rows)
        width = max(rows.shape[1] for rows in every)
        return jnp.concatenate([_widened(rows, width) for rows in every])

    return alternate


def _shuffled(key: Array, rows: Array, batch_size: int) -> Array:
    return data_lib.epoch_order(key, rows, min(batch_size, rows.shape[0]))


def _repeated(key: Array, rows: Array, batch_size: int, num_steps: int) -> Array:
    """`num_steps` batches, shuffled anew whenever all rows have been seen."""
    per_round = data_lib.steps_per_epoch(rows.shape[0], min(batch_size, rows.shape[0]))
    rounds = jax.random.split(key, data_lib.steps_per_epoch(num_steps, per_round))
    batches = jax.vmap(lambda k: _shuffled(k, rows, batch_size))(rounds)
    return batches.reshape(-1, batches.shape[-1])[:num_steps]


def _padding(rows: Array) -> Array:
    return -1 - data_lib.position(rows)


def _widened(rows: Array, width: int) -> Array:
    """Batches of another width; padding takes a batch's own examples in turn, as its statistics."""
    turns = jnp.arange(width)
    own = rows[:, turns % rows.shape[1]]
    return jnp.where(turns < rows.shape[1], own, _padding(own))
