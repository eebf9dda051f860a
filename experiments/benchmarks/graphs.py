"""Graphs: an epoch, and oracles of many deletions side by side, against others' ways."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import sparse

from experiments.benchmarks import timing, torch_graphs, torch_models
from unlearnjax import models, tasks, training
from unlearnjax.data import graphs

RATE = 0.01


def run(
    nodes: int = 2708,
    edges: int = 5278,
    features: int = 1433,
    words: int = 18,
    oracles: tuple[int, ...] = (8, 32),
    num_epochs: int = 20,
    deleted: int = 14,
    sample: int = 4,
    repeats: int = 3,
) -> Iterator[dict]:
    """Yields epochs of training a GCN on a random graph, then the oracles; sizes are Cora's.

    Args:
      nodes, edges, features: N, E, D.
      words: of every node.
      oracles: how many deletions.
      num_epochs: of a training; each is a step over 140 nodes.
      deleted: nodes of a deletion.
      sample: how many oracles PyTorch trains; the time is scaled to all.
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

    def train(graph, gone, key):
        cut = graphs.without_nodes(graph, gone)
        kept = {"num_epochs": num_epochs, "batch_size": size, "start": {"graph": cut}}
        recipe = training.descent(task, optax.adam(RATE))
        # A deleted node's example is padding: deletions of any size are one program.
        positions = jnp.where(gone[data["inputs"]], -1 - jnp.arange(size), jnp.arange(size))
        return training.fit(recipe, data, positions, key, **kept)[0]["params"]

    keys = jax.random.split(jax.random.key(0), max(oracles))
    gone = np.zeros((len(keys), nodes), bool)
    for row in gone:
        row[rng.choice(size, min(deleted, size - 1), replace=False)] = True
    start = task.init(keys[0], data)["params"]

    def in_torch(row):
        """Of the nodes that stay, those that are trained on first."""
        stay = drawn[~row[drawn].any(1)]
        return torch_graphs.training(
            start, sparse.diags((~row).astype(float)) @ matrix, _normalised(stay, nodes),
            np.arange(size) % 7, num_epochs=num_epochs, rate=RATE,
        )  # fmt: skip

    with_torch = torch_models.available()
    calls = {"ours": timing.program(train, graph, jnp.asarray(gone[0]), keys[0])}
    if with_torch:
        calls["torch"] = in_torch(gone[0])
    case = f"GCN, {num_epochs} epochs, {nodes} nodes"
    yield timing.compare("graphs", case, calls, repeats)
    for number in oracles:
        many = jnp.asarray(gone[:number]), keys[:number]
        calls = {
            "vmap": timing.program(jax.vmap(train, (None, 0, 0)), graph, *many),
            "map": timing.program(
                lambda graph, *args: jax.lax.map(lambda x: train(graph, *x), args), graph, *many
            ),
        }
        if with_torch:
            few = [in_torch(row) for row in gone[: min(sample, number)]]
            calls["torch"] = timing.Sample(torch_graphs.in_turns(few), len(few) / number)
        yield timing.compare("graphs", f"{number} oracles, {nodes} nodes", calls, repeats)


def _normalised(edges: np.ndarray, number: int) -> sparse.csr_matrix:
    """`D^-1/2 (A + I) D^-1/2`."""
    ends = np.concatenate([edges, edges[:, ::-1]])
    matrix = sparse.csr_matrix((np.ones(len(ends)), ends.T), (number, number)) + sparse.eye(number)
    norm = sparse.diags(1 / np.sqrt(np.asarray(matrix.sum(1)).ravel()))
    return (norm @ matrix @ norm).tocsr()
