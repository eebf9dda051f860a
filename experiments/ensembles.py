"""Many models by name and number, chunk by chunk; a relaunch does not repeat a finished chunk."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments import build, runner
from unlearnjax import parallel, trees
from unlearnjax.training import ensembles
from unlearnjax.types import Data, PyTree, Task, Variables

Arrays = dict[str, np.ndarray]


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
    tx = build.training_optimizer(config, subsets.shape[1])
    augment = build.augmentation(config)
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
            augment=augment,
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


def named(variables: Variables, data: Data | None = None) -> dict[str, jax.Array]:
    """Models as arrays by name, to be kept; `stacked` undoes it."""
    del data
    return dict(zip(trees.names(variables), jax.tree.leaves(variables), strict=True))


def stacked(kept: Arrays, like: Variables) -> Variables:
    """The models among kept arrays, leaves `[M, ...]`; `like` has their structure."""
    return jax.tree.structure(like).unflatten([kept[name] for name in trees.names(like)])
