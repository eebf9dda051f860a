"""Oracles of many deletions from a graph: side by side, against one after another."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import sparse

from experiments.benchmarks import timing
from unlearnjax import models, tasks, training
from unlearnjax.data import graphs


def run(
    nodes: int = 2708,
    edges: int = 5278,
    features: int = 1433,
    words: int = 18,
    oracles: tuple[int, ...] = (8, 32),
    num_epochs: int = 20,
    deleted: int = 14,
    repeats: int = 3,
) -> Iterator[dict]:
    """Yields a training epoch of a GCN on a random graph, then the oracles; sizes are Cora's.

    Args:
      nodes, edges, features: N, E, D.
      words: of every node.
      oracles: how many deletions.
      num_epochs: of a training; each is a step over 140 nodes.
      deleted: nodes of a deletion.
    """
    rng = np.random.default_rng(0)
    ids = np.stack([rng.choice(features, words, replace=False) for _ in range(nodes)])
    rows = np.repeat(np.arange(nodes), words)
    matrix = sparse.csr_matrix(
        (np.full(ids.size, 1 / words), (rows, ids.ravel())), (nodes, features)
    )
    drawn = graphs.undirected(rng.integers(nodes, size=(2 * edges, 2)))
    drawn = drawn[np.sort(rng.permutation(len(drawn))[:edges])]
    graph = jax.tree.map(jnp.asarray, graphs.graph(matrix, drawn))
    task = tasks.node_classification(tasks.from_linen(models.GCN(7), ("graph",)), graph)
    size = min(140, nodes)
    data = {"inputs": jnp.arange(size), "targets": jnp.arange(size) % 7, "index": jnp.arange(size)}

    def train(gone, key):
        cut = graphs.without_nodes(graph, gone)
        kept = {"num_epochs": num_epochs, "batch_size": size, "start": {"graph": cut}}
        recipe = training.descent(task, optax.adam(0.01))
        # A deleted node's example is padding: deletions of any size are one program.
        positions = jnp.where(gone[data["inputs"]], -1 - jnp.arange(size), jnp.arange(size))
        return training.fit(recipe, data, positions, key, **kept)[0]["params"]

    keys = jax.random.split(jax.random.key(0), max(oracles))
    gone = np.zeros((len(keys), nodes), bool)
    for row in gone:
        row[rng.choice(size, min(deleted, size - 1), replace=False)] = True
    gone = jnp.asarray(gone)
    one = timing.program(train, gone[0], keys[0])
    yield timing.compare(
        "graphs", f"{num_epochs} epochs, GCN, {nodes} nodes", {"ours": one}, repeats
    )
    for number in oracles:
        many = gone[:number], keys[:number]
        calls = {
            "vmap": timing.program(jax.vmap(train), *many),
            "map": timing.program(lambda *args: jax.lax.map(lambda x: train(*x), args), *many),
        }
        yield timing.compare("graphs", f"{number} oracles, {nodes} nodes", calls, repeats)
