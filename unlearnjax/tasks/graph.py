"""Graphs: a network over all nodes, and the examples, nodes or pairs of them, that it predicts.

The graph is the collection 'graph' of the variables, since a transductive model cannot be served
without it: models carry it, requests replace it (`types.Request.edited`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.data import graphs
from unlearnjax.tasks.adapters import Model
from unlearnjax.tasks.classification import classification
from unlearnjax.tasks.trained import held, without
from unlearnjax.types import Array, Batch, Outputs, Task, Variables

COLLECTION = "graph"
# Pairs that are drawn for every negative, of which the first that is no edge is taken.
PROPOSALS = 8


def node_classification(model: Model, graph: graphs.Graph) -> Task:
    """A Task with softmax cross-entropy of nodes.

    Columns: `inputs` `[B]`, ids of nodes, and `targets` `[B]`, their classes. Metrics and
    divergence are those of `classification`.

    Args:
      model: of the column 'graph': `from_linen(models.GCN(7), ("graph",))`.
      graph: of the shapes of those that models will carry; its values are not kept.

    Returns:
      A task whose `init` makes no graph: that comes in by `start` of a training, as `{'graph':
      ...}`, and stays in all that is made in the place of a model. `apply` runs the whole graph,
      whatever the batch is, so large batches are cheap.

    Examples:
      >>> import numpy as np
      >>> from unlearnjax import models, tasks, training
      >>> graph = graphs.graph(np.eye(4, dtype=np.float32), np.array([[0, 1], [2, 3]]))
      >>> task = node_classification(tasks.from_linen(models.GCN(3), ("graph",)), graph)
      >>> data = {"inputs": jnp.arange(4), "targets": jnp.array([0, 0, 1, 2])}
      >>> variables = training.init_variables(task, data, jax.random.key(0), {"graph": graph})
      >>> training.evaluate(task, variables, data)["loss"].shape
      (4,)
    """
    return on_nodes(classification, model, graph)


def on_nodes(make: Callable[[Model], Task], model: Model, graph: graphs.Graph) -> Task:
    """The task that `make` makes of a model of nodes, such as `tasks.regression`.

    Args:
      make: a task's constructor.
      model, graph: see `node_classification`.
    """

    def of_rows(outputs: Outputs, batch: Batch) -> Outputs:
        return jax.tree.map(lambda x: x[batch["inputs"]], outputs)

    return _on_graph(make, model, graph, of_rows)


def link_prediction(model: Model, graph: graphs.Graph) -> Task:
    """A Task that tells pairs of nodes with an edge from others, by the product of embeddings.

    Columns: `inputs` `[B, 2]`, ids of nodes, and `targets` `[B]`, 1 where there is an edge. The
    logits are `[0, z_u . z_v]`, so that cross-entropy is that of the product's sigmoid, and metrics
    and divergence are those of `classification`. Where `inputs` are -1 the pair is drawn: two nodes
    of the graph that the model carries, uniformly, without an edge between them. `draw` proposes
    `PROPOSALS`, of which the first such is taken, or the last where none is.

    Outputs: 'features' `[B, D]`, the product by coordinates; `layer_i` `[B, 2, D]` of both ends.

    Args:
      model, graph: see `node_classification`; 'logits' of the model are the embeddings, see
        `models.GCN.out`.

    Raises:
      ValueError: for more nodes than pairs can be numbered of in 32 bits, 46,340.
    """
    number = graphs.num_nodes(graph)
    _validate_number(number)

    def draw(rng: Array, example: Batch, train: bool) -> Batch:
        del train
        return {**example, "proposals": jax.random.randint(rng, (PROPOSALS, 2), 0, number)}

    def of_pairs(outputs: Outputs, batch: Batch) -> Outputs:
        ends = {name: value[batch["inputs"]] for name, value in outputs.items()}
        product = ends.pop("logits").prod(1)
        score = product.sum(-1)
        logits = jnp.stack([jnp.zeros_like(score), score], axis=-1)
        return {**ends, "features": product, "logits": logits}

    task = _on_graph(classification, model, graph, of_pairs)

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        if "proposals" in batch:
            found = free_pairs(held(variables, COLLECTION, "data.graphs"), batch["proposals"])
            inputs = jnp.where(batch["inputs"] < 0, found, batch["inputs"])
            batch = {**batch, "inputs": inputs}
        return task.apply(variables, batch, rng, train)

    return task._replace(apply=apply, draw=draw)


def free_pairs(graph: graphs.Graph, proposals: Array) -> Array:
    """`[B, 2]`: of `[B, P, 2]` pairs the first of each row that is no edge, or else the last.

    Nor is it a node with itself or one that was deleted. Cost: a sort of the edges.

    Raises:
      ValueError: see `link_prediction`.
    """
    graph = {name: graph[name] for name in ("senders", "receivers", "edge_mask", "node_mask")}
    graph, number = jax.tree.map(jnp.asarray, graph), graphs.num_nodes(graph)
    _validate_number(number)
    codes = jnp.where(graph["edge_mask"], graph["senders"] * number + graph["receivers"], -1)
    codes = jnp.append(jnp.sort(codes), -1)  # there may be no edge
    one, other = proposals[..., 0], proposals[..., 1]
    wanted = one * number + other
    place = jnp.searchsorted(codes[:-1], wanted)
    there = graph["node_mask"][one] & graph["node_mask"][other]
    free = there & (codes[place] != wanted) & (one != other)
    free = free.at[:, -1].set(True)
    first = jnp.argmax(free, axis=1)
    return jnp.take_along_axis(proposals, first[:, None, None], axis=1)[:, 0]


def _validate_number(number: int) -> None:
    checks.within(2, 46_340, **{"number of nodes": number})


def _on_graph(
    make: Callable[[Model], Task],
    model: Model,
    graph: graphs.Graph,
    gather: Callable[[Outputs, Batch], Outputs],
) -> Task:
    """The task whose outputs are what `gather` takes of those of all nodes."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(graph))

    def init(rng: Array, batch: Batch) -> Variables:
        del batch
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return model.init(rng, {COLLECTION: blank})

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        graph = held(variables, COLLECTION, "data.graphs")
        own = without(variables, COLLECTION)
        arrays = jax.tree.map(jnp.asarray, graph)
        outputs, updated = model.apply(own, {**batch, COLLECTION: arrays}, rng, train)
        return gather(outputs, batch), {**updated, COLLECTION: graph}

    return make(Model(init, apply))._replace(edited=(COLLECTION,))
