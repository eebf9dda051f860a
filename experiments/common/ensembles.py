"""Many models by name and number, chunk by chunk; a relaunch does not repeat a finished chunk."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common import build, measure, runner
from unlearnjax import audit, parallel, training, trees
from unlearnjax import data as data_lib
from unlearnjax.training import ensembles
from unlearnjax.types import Data, PyTree, Task, Variables

Arrays = dict[str, np.ndarray]


class Pool(NamedTuple):
    """Training and test data in one.

    Attributes:
      dataset: as loaded.
      train, test: what the config takes of it, on the host.
      data: the `size` training examples, then those of the test set, placed on the devices; `index`
        is the position.
      size: N.
      rng: goes on from what drew them.
    """

    dataset: data_lib.Dataset
    train: Data
    test: Data
    data: Data
    size: int
    rng: np.random.Generator


def load(config: ConfigDict, data_dir: str | None) -> Pool:
    """The data of an experiment on many models."""
    dataset = build.dataset(config, data_dir)
    rng = np.random.default_rng(config.seed)
    train = data_lib.subsample(dataset.train, config.num_train, rng)
    test = data_lib.subsample(dataset.test, config.num_test, rng)
    pool = {k: np.concatenate([train[k], test[k]]) for k in train if k in test}
    pool = measure.place(pool | {"index": np.arange(len(pool["targets"]))})
    return Pool(dataset, train, test, pool, len(train["targets"]), rng)


def in_chunks(
    run: runner.Run, name: str, count: int, size: int, compute: Callable[[np.ndarray], PyTree]
) -> Arrays:
    """`compute(numbers [size]) -> {name: [size, ...]}` of the models 0, ..., count - 1, joined."""
    mesh, size, parts = parallel.current(), min(size, count), []
    # The last chunk is filled up, so that all share one compiled program; any, for the devices.
    filled = size if mesh is None else -(-size // mesh.size) * mesh.size
    for begin in range(0, count, size):
        numbers = np.arange(begin, min(begin + size, count))

        def chunk(numbers=numbers):
            start = time.perf_counter()
            kept = parallel.fetch(compute(np.resize(numbers, filled)))
            kept = {k: v[: len(numbers)] for k, v in kept.items()}
            return {"models": len(numbers), "seconds": time.perf_counter() - start}, kept

        row, old = f"{name}_{begin:06d}", run.has_row(f"{name}_{begin:06d}")
        parts.append(run.row(row, chunk)[1])
        run.advance(name, len(numbers), resumed=old)
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def train(
    config: ConfigDict,
    run: runner.Run,
    task: Task,
    pool: Data,
    name: str,
    subsets: np.ndarray,
    keep: Callable[[Variables, Data], dict[str, jax.Array]],
) -> Arrays:
    """What `keep` makes of a model per subset `[M, n]` of `pool`, leaves `[M, ...]`.

    Model m has the key `(name, m)`: it is the same in any chunk, and on any number of devices.
    """
    tx = build.recipe(config, subsets.shape[1])
    mesh = parallel.current()

    @jax.jit
    def compute(subsets, numbers, pool):
        return ensembles.train_ensemble(
            task,
            tx,
            pool,
            subsets,
            keys(config, name, numbers),
            keep,
            num_epochs=config.train.num_epochs,
            batch_size=config.train.batch_size,
            mesh=mesh,
        )

    def finite(numbers):
        kept = parallel.fetch(compute(jnp.asarray(subsets[numbers]), jnp.asarray(numbers), pool))
        if not all(np.isfinite(v).all() for v in kept.values()):
            raise FloatingPointError(
                f"{name}: models {numbers[0]} to {numbers[-1]} are not finite; lower "
                "train.learning_rate"
            )
        return kept

    return in_chunks(run, name, len(subsets), config.ensemble.chunk, finite)


def keys(config: ConfigDict, name: str, numbers: jax.Array) -> jax.Array:
    """A key per model."""
    return jax.vmap(lambda m: jax.random.fold_in(runner.key(config.seed, name), m))(numbers)


def margins(task: Task) -> Callable[[Variables, Data], dict[str, jax.Array]]:
    """What to keep of a model: its margins."""
    return lambda v, pool: {"margin": training.evaluate(task, v, pool)["margin"]}


def with_models(keep: Callable[[Variables, Data], dict[str, jax.Array]]):
    """The same and the model itself."""
    return lambda v, pool: keep(v, pool) | named(v)


def named(variables: Variables, data: Data | None = None) -> dict[str, jax.Array]:
    """Models as arrays by name, to be kept; `stacked` undoes it."""
    del data
    return dict(zip(trees.names(variables), jax.tree.leaves(variables), strict=True))


def whole(size: int, count: int) -> np.ndarray:
    """`[count, size]`: every model has all."""
    return np.broadcast_to(np.arange(size), (count, size))


def like(task: Task, pool: Data) -> Variables:
    """Shapes of a model."""
    return jax.eval_shape(lambda r: training.init_variables(task, pool, r), jax.random.key(0))


def stacked(kept: Arrays, shapes: Variables) -> Variables:
    """The models among kept arrays, leaves `[M, ...]`; `shapes` has their structure."""
    return jax.tree.structure(shapes).unflatten([kept[name] for name in trees.names(shapes)])


def training_flops(config: ConfigDict, task: Task, pool: Data, size: int) -> float:
    """Of one model on all training examples."""
    tx = build.recipe(config, size)
    options = {"num_epochs": config.train.num_epochs, "batch_size": config.train.batch_size}
    train = lambda rng: training.train(task, tx, pool, jnp.arange(size), rng, **options)[0]
    return audit.flops(train, jax.random.key(0))
