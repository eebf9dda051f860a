"""What several processes must compute as one does; `tests/distributed_test.py` runs it.

python -m tests.distributed OUT.npz COORDINATOR NUM_PROCESSES PROCESS_ID
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests import problems
from unlearnjax import analytic, curvature, parallel, training, trees, unlearning
from unlearnjax.training import ensembles
from unlearnjax.types import Request

DEVICES = 2  # of each process
SIZE, BATCH = 304, 64


def compute() -> dict[str, np.ndarray]:
    """By name; under the current mesh, if there is one."""
    mesh = parallel.current()
    place = (lambda tree: tree) if mesh is None else lambda tree: parallel.replicate(tree, mesh)
    host = {k: v[:SIZE] for k, v in problems.digits().items()}
    data, task, rng = place(host), problems.mlp(), jax.random.key(0)
    tx, rows = optax.adam(1e-3), place(np.arange(SIZE))
    step = training.make_step(training.supervised(task), tx)
    options = {"num_epochs": 2, "batch_size": BATCH}
    result = {}

    def keep(name, tree):
        tree = parallel.fetch(tree)
        leaves = zip(trees.names(tree), jax.tree.leaves(tree), strict=True)
        result.update({f"{name}/{path}": leaf for path, leaf in leaves})

    fresh = lambda rng: training.init_state(training.init_variables(task, host, rng), tx)
    epochs = lambda state, data, rows, rng: training.run_epochs(
        step, state, data, rows, rng, **options
    )
    trained = jax.jit(epochs)(jax.jit(fresh)(rng), data, rows, rng)[0]
    keep("train", trained.variables)

    fetched = []

    def fetch(positions):
        fetched.append(len(positions))
        return {k: v[positions] for k, v in host.items()}

    streams = training.stream_epochs(
        step, jax.jit(fresh)(rng), fetch, jnp.arange(SIZE), rng, **options
    )
    keep("stream", [state.variables for state, _ in streams][-1])
    assert set(fetched) == {BATCH // jax.process_count()}, fetched

    placed = {}
    if mesh is not None:
        shardings = parallel.split_shardings(jax.eval_shape(fresh, rng), mesh, min_size=64)
        placed = {"out_shardings": shardings}
    start = jax.jit(fresh, **placed)(rng)
    of_epochs = {"out_shardings": (placed["out_shardings"], None)} if placed else {}
    spread = jax.jit(epochs, **of_epochs)(start, data, rows, rng)[0]
    if mesh is not None:
        assert any(not x.is_fully_replicated for x in jax.tree.leaves(spread.variables))
    keep("spread", spread.variables)

    variables = trained.variables
    keep("fisher", jax.jit(lambda v, d: curvature.fisher_diagonal(task, v, d))(variables, data))
    method = unlearning.ssd(alpha=1.5)

    @jax.jit
    def forget(variables, data, part):
        variables, memory = method.init(None, task, variables, data)
        return method.update(None, task, variables, memory, Request(forget=part))[0]

    keep("ssd", forget(variables, data, place({k: v[:40] for k, v in host.items()})))

    subsets = ensembles.random_subsets(jax.random.key(2), 8, SIZE)
    fit = jax.jit(
        lambda subsets, rngs, data: ensembles.train_ensemble(
            task,
            tx,
            data,
            subsets,
            rngs,
            lambda v, d: training.evaluate(task, v, d)["margin"],
            mesh=mesh,
            **options,
        )
    )
    rngs = jax.random.split(jax.random.key(3), 8)
    keep("ensemble", fit(place(np.asarray(subsets)), place(rngs), data))

    with jax.enable_x64(True):
        features = host["inputs"].reshape(SIZE, -1).astype(np.float64)
        targets = np.eye(10)[host["targets"]]
        shard = place if mesh is None else lambda tree: parallel.shard(tree, mesh)
        state = place(jax.device_get(analytic.init(features.shape[1], 10, 1.0, dtype=jnp.float64)))
        learned = jax.jit(analytic.learn)(state, shard(features), shard(targets))
        block = features[:16], targets[:16]
        keep("acu", jax.jit(analytic.try_forget)(learned, *map(shard, block))[0].weight)
    return result


def main(out: str, coordinator: str, num_processes: str, process_id: str) -> None:
    jax.config.update("jax_num_cpu_devices", DEVICES)
    parallel.initialize(coordinator, int(num_processes), int(process_id))
    assert jax.device_count() == DEVICES * int(num_processes)
    with jax.set_mesh(parallel.mesh()):
        result = compute()
    if parallel.is_main_process():
        np.savez(Path(out), **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
