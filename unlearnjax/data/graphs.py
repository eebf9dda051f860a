"""Graphs on static shapes: nodes with features, and edges, of which any may be masked.

A graph is `{'nodes', 'senders' [M], 'receivers' [M], 'edge_mask' [M], 'node_mask' [N]}`, what a
model carries as its collection 'graph'. Undirected edge e of E lies in the places e and E + e, once
in either direction. Features 'nodes' are an array `[N, D]`, or words: `{'ids' [N, K], 'values'
[N, K], 'known' [D]}`, the K columns of a row that are not 0, padded by values of 0.

Deleting is masking, so that shapes stay, no program is compiled anew, and many deletions can be
mapped over. What is masked is overwritten as well: no deleted edge or feature can be read.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.data import validation
from unlearnjax.types import Array

Graph = dict[str, Any]


def graph(nodes: Any, edges: np.ndarray) -> Graph:
    """The graph of features and undirected edges, in NumPy.

    Args:
      nodes: features, real and finite: an array `[N, D]`, or a SciPy sparse matrix, which is kept
        as words.
      edges: `[E, 2]` node ids, every edge once, in either direction.

    Raises:
      ValueError: for features that are no finite `[N, D]`, edges that are no `[E, 2]`, ids that
        are no nodes, an edge that is listed twice, and one from a node to itself.

    Examples:
      >>> made = graph(np.eye(3), np.array([[0, 1], [1, 2]]))
      >>> made["senders"].tolist(), made["receivers"].tolist()
      ([0, 1, 1, 2], [1, 2, 0, 1])
    """
    sparse = hasattr(nodes, "tocsr")
    nodes = nodes.tocsr() if sparse else np.asarray(nodes)
    features = _words(nodes) if sparse else nodes
    validation.validate_numbers(features["values"] if sparse else features, "nodes")
    if nodes.ndim != 2:
        raise ValueError(f"nodes must be [N, D], got {list(nodes.shape)}")
    number = nodes.shape[0]
    edges = as_pairs(edges, "edges")
    validate_pairs(edges, number, "edges")
    codes = edges.min(1).astype(np.int64) * number + edges.max(1)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if (counts > 1).any():
        again = edges[first[counts > 1][0]].tolist()
        raise ValueError(f"edges must be listed once, in one direction, got {again} again")
    senders, receivers = edges.T.astype(np.int32)
    return {
        "nodes": features if sparse else features.astype(np.float32),
        "senders": np.concatenate([senders, receivers]),
        "receivers": np.concatenate([receivers, senders]),
        "edge_mask": np.ones(2 * len(edges), bool),
        "node_mask": np.ones(number, bool),
    }


def num_nodes(graph: Graph) -> int:
    """N, the deleted ones included."""
    return graph["node_mask"].shape[-1]


def pairs(graph: Graph) -> np.ndarray:
    """`[E, 2]`: the undirected edges that are not masked, in the order they were given."""
    half = graph["edge_mask"].shape[-1] // 2
    there = np.asarray(graph["edge_mask"])[:half]
    ends = [np.asarray(graph[name])[:half][there] for name in ("senders", "receivers")]
    return np.stack(ends, axis=1)


def undirected(edges: np.ndarray, symmetric: bool = False) -> np.ndarray:
    """`[E, 2]`: every edge once, sorted, without those from a node to itself.

    Args:
      edges: `[M, 2]` in any direction, repeated or not.
      symmetric: whether every edge must be listed in both directions.

    Raises:
      ValueError: for what are no integers `[M, 2]`; if `symmetric` and an edge is not, which it
        names.

    Examples:
      >>> undirected(np.array([[1, 0], [0, 1], [2, 2], [1, 2]])).tolist()
      [[0, 1], [1, 2]]
    """
    edges = as_pairs(edges, "edges").astype(np.int64)
    edges = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)
    if symmetric:
        there = set(map(tuple, edges.tolist()))
        alone = [edge for edge in sorted(there) if edge[::-1] not in there]
        if alone:
            raise ValueError(
                f"edges must be listed in both directions, got {list(alone[0])} alone"
                f" ({len(alone)} in all)"
            )
    return np.unique(np.sort(edges, axis=1), axis=0)


def nearest(features: np.ndarray, number: int = 10) -> np.ndarray:
    """`[E, 2]`: the graph that links every row to the `number` that are nearest to it.

    By Euclidean distance of the rows `[N, ...]`, flattened; an edge is there if either end asks for
    it. Ties go to the earlier row. Cost: N^2 distances, a thousand rows at a time.

    Raises:
      ValueError: for features that are not finite, or not so many other rows.
    """
    checks.whole(number=number)
    validation.validate_numbers(np.asarray(features), "features")
    rows = np.asarray(features, np.float64).reshape(len(features), -1)
    checks.within(1, len(rows) - 1, number=number)
    squares = (rows**2).sum(1)
    found = []
    for start in range(0, len(rows), 1000):
        own = np.arange(start, min(start + 1000, len(rows)))
        distances = squares[own, None] + squares - 2 * rows[own] @ rows.T
        distances[np.arange(len(own)), own] = np.inf
        near = np.argsort(distances, axis=1, kind="stable")[:, :number]
        found.append(np.stack([np.repeat(own, number), near.ravel()], axis=1))
    return undirected(np.concatenate(found))


def homophily(edges: np.ndarray, targets: np.ndarray) -> float:
    """Share of the edges `[E, 2]` whose ends have the same class."""
    return float((targets[edges[:, 0]] == targets[edges[:, 1]]).mean())


def node_rows(graph: Graph, ids: Sequence[int]) -> np.ndarray:
    """`[N]` bool: these nodes.

    Raises:
      ValueError: for none, one given twice, or what is no id of a node of the graph any more.
    """
    ids, there = np.asarray(ids), np.asarray(graph["node_mask"])
    if not ids.size:
        raise ValueError("nodes must name at least one, got none")
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"nodes must be integers [n], got {ids.dtype} {list(ids.shape)}")
    bad = ids[(ids < 0) | (ids >= len(there))]
    bad = bad if bad.size else ids[~there[ids]]
    if bad.size:
        raise ValueError(f"nodes must be of the graph's {there.sum()}, got {listed(bad)}")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"nodes must be named once, got {listed(np.sort(ids))}")
    return np.isin(np.arange(len(there)), ids)


def edge_rows(graph: Graph, edges: np.ndarray) -> np.ndarray:
    """`[M]` bool: these undirected edges `[E, 2]`, given in either direction, in both places.

    Raises:
      ValueError: for none, one that is not in the graph, or one given twice; it names the edge.
    """
    edges, number = as_pairs(edges, "edges"), num_nodes(graph)
    if not len(edges):
        raise ValueError("edges must name at least one, got none")
    validate_pairs(edges, number, "edges")
    code = lambda low, high: low.astype(np.int64) * number + high
    ends = [np.asarray(graph[name]) for name in ("senders", "receivers")]
    known = np.where(graph["edge_mask"], code(np.minimum(*ends), np.maximum(*ends)), -1)
    wanted = code(edges.min(1), edges.max(1))
    values, first, counts = np.unique(wanted, return_index=True, return_counts=True)
    if (counts > 1).any():
        again = edges[first[counts > 1][0]].tolist()
        raise ValueError(f"edges must be named once, in one direction, got {again} again")
    absent = first[~np.isin(values, known)]
    if absent.size:
        raise ValueError(f"edges must be in the graph, {edges[absent[0]].tolist()} is not")
    return np.isin(known, wanted)


def without_edges(graph: Graph, gone: Array) -> Graph:
    """The graph without the edges of `gone` `[M]` bool, see `edge_rows`; of the same shapes."""
    kept = graph["edge_mask"] & ~jnp.asarray(gone)
    ends = {name: jnp.where(kept, graph[name], 0) for name in ("senders", "receivers")}
    return {**graph, **ends, "edge_mask": kept}


def without_features(graph: Graph, gone: Array) -> Graph:
    """The graph in which the nodes of `gone` `[N]` bool have only features of 0."""
    gone, nodes = jnp.asarray(gone), graph["nodes"]
    blank = lambda x: jnp.where(gone.reshape(-1, *[1] * (x.ndim - 1)), jnp.zeros((), x.dtype), x)
    if isinstance(nodes, dict):
        return {**graph, "nodes": nodes | {name: blank(nodes[name]) for name in ("ids", "values")}}
    return {**graph, "nodes": blank(nodes)}


def without_nodes(graph: Graph, gone: Array) -> Graph:
    """The graph without the nodes of `gone` `[N]` bool, their features and all of their edges."""
    gone = jnp.asarray(gone)
    touched = gone[graph["senders"]] | gone[graph["receivers"]]
    rest = without_features(without_edges(graph, touched), gone)
    return {**rest, "node_mask": graph["node_mask"] & ~gone}


def changed(before: Graph, after: Graph) -> Array:
    """`[N]` bool: nodes that were deleted, have other features, or lost or gained an edge."""
    number = num_nodes(before)
    differs = jnp.asarray(before["node_mask"] != after["node_mask"])
    for one, other in zip(*(jax.tree.leaves(own["nodes"]) for own in (before, after)), strict=True):
        if one.shape[0] == number:
            differs |= (one != other).reshape(number, -1).any(1)
    edges = before["edge_mask"] != after["edge_mask"]
    for name in ("senders", "receivers"):
        for own in (before, after):
            ends = jnp.where(edges & own["edge_mask"], own[name], number)
            differs = differs.at[ends].set(True, mode="drop")
    return differs


def k_hop(graph: Graph, start: Array, number: int) -> Array:
    """`[N]` bool: the nodes within `number` edges of those of `start` `[N]` bool, these included.

    `number` is not traced. Cost: that many sums over the edges.
    """
    reached = jnp.asarray(start)
    senders = graph["senders"]
    receivers = jnp.where(graph["edge_mask"], graph["receivers"], num_nodes(graph))
    for _ in range(number):
        reached |= jnp.zeros_like(reached).at[receivers].max(reached[senders], mode="drop")
    return reached


def as_pairs(edges: np.ndarray, name: str) -> np.ndarray:
    """Integers `[E, 2]`, none of an empty list; raises `ValueError` for others, such as `[2, E]`.

    Two edges look alike in either form: the ends of an edge are a row here.
    """
    edges = np.asarray(edges)
    if not edges.size:
        return np.zeros((0, 2), np.int64)
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(f"{name} must be [E, 2], an edge a row, got {list(edges.shape)}")
    if edges.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got {edges.dtype}")
    return edges


def validate_pairs(edges: np.ndarray, number: int, name: str) -> None:
    """Raises `ValueError` for pairs `[E, 2]` that are not of two different ones of so many."""
    bad = np.flatnonzero(((edges < 0) | (edges >= number)).any(1))
    if bad.size:
        raise ValueError(f"{name} must join nodes 0 to {number - 1}, got {edges[bad[0]].tolist()}")
    loops = np.flatnonzero(edges[:, 0] == edges[:, 1])
    if loops.size:
        raise ValueError(f"{name} must join two nodes, got {edges[loops[0]].tolist()}")


def listed(ids: np.ndarray) -> str:
    """The first of them."""
    return validation.listed(ids.tolist())


def _words(matrix: Any) -> dict[str, np.ndarray]:
    """Rows of a CSR matrix `[N, D]`, padded to the longest."""
    matrix.eliminate_zeros()
    counts = np.diff(matrix.indptr)
    place = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
    ids, values = np.zeros(place.shape, np.int32), np.zeros(place.shape, np.float32)
    ids[place], values[place] = matrix.indices, matrix.data
    return {"ids": ids, "values": values, "known": np.ones(matrix.shape[1], bool)}
