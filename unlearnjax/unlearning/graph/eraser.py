"""GraphEraser: shards of a graph that train by themselves."""

import math

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks
from unlearnjax.data import graphs
from unlearnjax.models import graph as layers
from unlearnjax.types import Array, Unlearner
from unlearnjax.unlearning.sisa import Partition, sisa


def graph_eraser(
    tx: optax.GradientTransformation,
    *,
    num_shards: int = 10,
    num_epochs: int = 100,
    batch_size: int = 64,
    slack: float = 0.1,
    num_rounds: int = 20,
) -> Unlearner:
    """SISA whose shards are communities of the graph, found by balanced label propagation.

    Each shard trains on the nodes, and the edges between them, that it has. A deletion trains the
    shards anew whose part of the graph, or of the training nodes, it changes; the others stay as
    they are. Predictions are the mean probabilities of all shards' models, each asked on the whole
    edited graph; published are also a majority, learned weights, and balanced k-means of
    embeddings, which are left out.

    Args:
      tx, num_epochs, batch_size: see `sisa`.
      num_shards: at least 1.
      slack: a community may be larger than an even share of the nodes by this share of it, >= 0;
        the published 0.005 of the other nodes is `0.005 (num_shards - 1)`.
      num_rounds: of the propagation.

    Returns:
      An unlearner for the classification of nodes that needs the training data at `init`, then
      forget and retain data and labels. Cost: as of `sisa` with one slice, each shard's of as many
      steps as all training nodes need.

    Raises:
      ValueError: for a value out of range, at `init` for more shards than nodes to train on, and
        for pairs, most of which are in no shard.

    References:
      Chen et al., "Graph Unlearning", CCS 2022. The published code divides the graph of the nodes
        trained on alone, and adds all test nodes to every shard, which is asked about them there;
        here all nodes are divided. The published propagation also lets a node that
      waits for room in once another leaves, in the same round, and moves nodes without neighbours
      to the first community; here they wait for the next round, and stay.
    """
    checks.at_least(0, slack=slack, num_rounds=num_rounds)

    def assign(rng, carried, data, number):
        if "graph" not in carried:
            raise ValueError("graph_eraser needs a model that carries a graph")
        if data["inputs"].ndim != 1:
            raise ValueError("graph_eraser is for the classification of nodes, got pairs of them")
        size = len(data["inputs"])
        if number > size:
            raise ValueError(
                f"num_shards must be at most the {size} nodes trained on, got {number}"
            )
        found = communities(rng, carried["graph"], number, slack=slack, num_rounds=num_rounds)
        return found[data["inputs"]], found

    def restrict(carried, found, number):
        graph = graphs.without_nodes(carried["graph"], found != number)
        return {**carried, "graph": graph}

    return sisa(
        tx,
        num_shards=num_shards,
        num_slices=1,
        num_epochs=num_epochs,
        batch_size=batch_size,
        partition=Partition(assign, restrict),
    )


def communities(
    rng: Array, graph: graphs.Graph, number: int, *, slack: float = 0.1, num_rounds: int = 20
) -> Array:
    """`[N]`: the community of every node, of at most `ceil((1 + slack) N / number)` nodes each.

    From a random even start; in every round nodes wish to go where most of their neighbours are,
    and go, those with the most such neighbours first, while there is room. Who has as many at home
    stays. Cost: a round goes over all nodes one after another.
    """
    size = graphs.num_nodes(graph)
    room = math.ceil((1 + slack) * size / number)
    start = jax.random.permutation(rng, size) % number

    def one_round(community, _):
        there = jax.nn.one_hot(community, number, dtype=jnp.int32)
        counts = layers.neighbour_sum(graph, there[graph["senders"]])
        wish, most = counts.argmax(1), counts.max(1)
        at_home = jnp.take_along_axis(counts, community[:, None], axis=1)[:, 0]
        wish = jnp.where(most > at_home, wish, community)

        def one_node(carry, node):
            community, sizes = carry
            old, new = community[node], wish[node]
            goes = (old != new) & (sizes[new] < room)
            moved = jnp.where(goes, new, old)
            sizes = sizes.at[old].add(-1).at[moved].add(1)
            return (community.at[node].set(moved), sizes), None

        order = jnp.argsort(-most, stable=True)
        (community, _), _ = jax.lax.scan(one_node, (community, there.sum(0)), order)
        return community, None

    return jax.lax.scan(one_round, start, length=num_rounds)[0]
