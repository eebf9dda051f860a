"""Epochs: a compiled scan over device-resident data, or the same step over a stream.

Both visit the same batches in the same order with the same keys, so they agree.
"""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp

from unlearnjax import data as data_lib
from unlearnjax import parallel
from unlearnjax.training.step import TrainState
from unlearnjax.types import Array, Batch, Data

Order = Callable[[Array, Array], Array]


def run_epochs(
    step: Callable,
    state: TrainState,
    data: Data,
    indices: Array,
    rng: Array,
    *,
    num_epochs: int,
    batch_size: int,
    order: Order | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """`num_epochs` more epochs from `state`, as one scan; jit it, or call it inside jit/vmap.

    The epoch number and all keys follow from `state.step`, so two calls of one epoch equal one call
    of two, and a run can be cut anywhere and resumed.

    Args:
      step: from `make_step` or `alternate`.
      state: where to go on from.
      data: device-resident arrays `[N, ...]`.
      indices: `[n]` int, the subset to train on; negative entries are padding.
      rng: key of the whole run.
      num_epochs: passes over the subset.
      batch_size: global batch size; the last batch of an epoch is padded with weight 0.
      order: `(key, epoch) -> [steps, B]` rows of an epoch; default `data.epoch_order`, a shuffle.

    Returns:
      The new state and the history: per-epoch weighted means, each `[num_epochs]`. Of several
      players, see `alternate`, also each one's sum of weights, `PLAYER.weight`; where that is 0, as
      the player rested all the epoch, its means are NaN.
    """
    if order is None:
        order = lambda key, epoch: data_lib.epoch_order(key, indices, batch_size)
    steps = jax.eval_shape(order, rng, state.step).shape[0]

    def one_step(state, rows):
        batch = parallel.constrain(data_lib.take(data, rows))
        return step(state, batch, _step_key(rng, state.step))

    def one_epoch(state, _):
        number = state.step // steps
        state, sums = jax.lax.scan(one_step, state, order(_epoch_key(rng, number), number))
        return state, _means(jax.tree.map(jnp.sum, sums))

    return jax.lax.scan(one_epoch, state, length=num_epochs)


def stream_epochs(
    step: Callable,
    state: TrainState,
    fetch: Callable[[list[int]], Batch],
    indices: Array,
    rng: Array,
    *,
    num_epochs: int,
    batch_size: int,
) -> Iterator[tuple[TrainState, dict[str, Array]]]:
    """`run_epochs` for data that does not fit the device: the host fetches every batch.

    Args:
      step: from `make_step` or `alternate`; compiled here, with the state's buffers donated.
      state: where to go on from; it must stand at the beginning of an epoch.
      fetch: host function from positions to their examples, e.g. over a `tfds` data source. What
        it returns for padded places gets weight 0. Under a mesh of several hosts each is asked for
        its own part of every batch only.
      indices, rng, num_epochs, batch_size: as in `run_epochs`.

    Yields:
      After every epoch the state and that epoch's weighted means. The yielded state is valid until
      the next one is asked for.
    """
    steps = data_lib.steps_per_epoch(indices.shape[0], batch_size)

    @partial(jax.jit, donate_argnums=0)
    def one_step(state, batch):
        return step(state, batch, _step_key(rng, state.step))

    mesh = parallel.current()
    if mesh is not None and batch_size % mesh.size and jax.process_count() == 1:
        mesh = None  # the devices do not divide it: every batch goes to one
    own = jnp.arange(batch_size) if mesh is None else parallel.local_rows(batch_size, mesh)
    state = jax.tree.map(jnp.copy, state)  # the caller's own buffers are not donated
    for _ in range(num_epochs):
        key = _epoch_key(rng, state.step // steps)
        totals = None
        for rows in jax.device_get(data_lib.epoch_order(key, indices, batch_size)[:, own]):
            batch = dict(fetch(jax.device_get(data_lib.position(rows)).tolist()))
            batch["weight"] = batch.get("weight", 1.0) * (rows >= 0).astype("float32")
            if mesh is not None:
                batch = parallel.from_local(batch, mesh)
            state, sums = one_step(state, batch)
            totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
        yield state, _means(totals)


def _epoch_key(rng: Array, epoch: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(rng, 1), epoch)


def _step_key(rng: Array, step: Array) -> Array:
    return jax.random.split(jax.random.fold_in(jax.random.fold_in(rng, 2), step))[0]


def _means(sums: dict[str, Array]) -> dict[str, Array]:
    """Divided by 'weight'; `NAME.METRIC` by `NAME.weight`, where there is one, which stays.

    NaN where that is 0: of nothing there is no mean.
    """

    def mean(name: str, value: Array) -> Array:
        own = sums.get(f"{name.rpartition('.')[0]}.weight")
        if own is None:
            return value / jnp.maximum(sums["weight"], 1e-12)
        return jnp.where(own > 0, value / jnp.maximum(own, 1e-12), jnp.nan)

    counts = {name for name in sums if name.rpartition(".")[2] == "weight"}
    means = {name: mean(name, value) for name, value in sums.items() if name not in counts}
    return means | {name: sums[name] for name in counts if name != "weight"}
