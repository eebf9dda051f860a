"""What of a graph is to be forgotten: nodes, edges or features; pairs that links are learned of.

All work on the host, before anything is compiled.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data import forget_sets, graphs
from unlearnjax.data.dataset import renumbered
from unlearnjax.data.planetoid import GraphDataset

SPECS = (
    "nodes:0.1, nodes:14 (so many), nodes:KIND:... as in data.forget_sets, edges:0.05, edges:100, "
    "edges:in:0.05, edges:out:0.05 (near the pairs that are tested, or not), edges:adversarial:0.5 "
    "(added before, between classes), features:0.1, features:KIND:..."
)
# How far from the ends of a tested pair its surroundings go.
HOPS = 2


class GraphRequest(NamedTuple):
    """A request to forget something of a graph.

    Attributes:
      graph: what originals train with.
      edited: the same without what is forgotten, of the same shapes.
      forget: positions in the training data: examples that are deleted; or, where edges or features
        are and the examples stay, those that they belong to.
      retain: positions of what stays, which oracles train on.
      note: what is to be known of it.
    """

    graph: graphs.Graph
    edited: graphs.Graph
    forget: np.ndarray
    retain: np.ndarray
    note: str = ""


def select(spec: str, dataset: GraphDataset, rng: np.random.Generator) -> GraphRequest:
    """The request that a short text describes.

    Args:
      spec: one of `SPECS`. Shares of nodes are of the nodes trained on (of pairs: of all), shares
        of edges of those that the graph has.
      dataset: of nodes, or of pairs, see `linked`.
      rng: source of the random choices.

    Raises:
      ValueError: if `spec` is not understood, or names what the graph has not, nothing or
        everything; or edges and features that belong to no example that is trained on.
    """
    kind, _, rest = spec.partition(":")
    try:
        checks.one_of(kind=(kind, tuple(_KINDS)))
        return _KINDS[kind](rest, dataset, rng)
    except ValueError as error:
        raise ValueError(f"forget={spec!r}: {error}; it may be {SPECS}") from error


def linked(
    dataset: GraphDataset, seed: int = 0, shares: tuple[float, float] = (0.05, 0.05)
) -> GraphDataset:
    """The data set of pairs: with an edge (1), or without (0).

    The graph keeps the edges that are trained on. Beside each of these there is a pair of -1, which
    `tasks.link_prediction` draws anew in every step. Validation and test have other edges, and as
    many pairs that are no edge of the whole graph.

    Args:
      dataset: of nodes.
      seed: of the split and of the pairs without edges.
      shares: of the edges, to validate and to test with.
    """
    checks.open_share(**{f"shares[{i}]": share for i, share in enumerate(shares)})
    checks.open_share(**{"sum of shares": sum(shares)})
    rng, edges = np.random.default_rng(seed), graphs.pairs(dataset.graph)
    checks.at_least(3, **{"number of edges": len(edges)})
    order = rng.permutation(len(edges))
    cuts = np.cumsum([max(1, round(share * len(edges))) for share in shares])
    val, test, train = (edges[np.sort(rows)] for rows in np.split(order, cuts))
    gone = graphs.edge_rows(dataset.graph, np.concatenate([val, test]))
    graph = {k: np.asarray(v) if k != "nodes" else v for k, v in dataset.graph.items()}
    kept = {name: graph[name][~gone] for name in ("senders", "receivers", "edge_mask")}
    negatives = non_edges(dataset.graph, len(val) + len(test), rng)

    def part(positive: np.ndarray, negative: np.ndarray):
        targets = np.repeat([1, 0], [len(positive), len(negative)]).astype(np.int32)
        inputs = np.concatenate([positive, negative]).astype(np.int32)
        return renumbered({"inputs": inputs, "targets": targets})

    return dataset._replace(
        train=part(train, np.full_like(train, -1)),
        val=part(val, negatives[: len(val)]),
        test=part(test, negatives[len(val) :]),
        num_classes=2,
        class_names=("no edge", "edge"),
        graph={**graph, **kept},
    )


def non_edges(graph: graphs.Graph, size: int, rng: np.random.Generator) -> np.ndarray:
    """`[size, 2]` different pairs of nodes of the graph without an edge, drawn uniformly.

    Raises:
      ValueError: for more than the graph has.
    """
    ids, number = np.flatnonzero(graph["node_mask"]), graphs.num_nodes(graph)
    edges = np.sort(graphs.pairs(graph), axis=1).astype(np.int64)
    taken = set((edges[:, 0] * number + edges[:, 1]).tolist())
    most = len(ids) * (len(ids) - 1) // 2 - len(taken)
    checks.within(0, most, **{"number of pairs without an edge": size})
    found = []
    while len(found) < size:
        low, high = np.sort(rng.choice(ids, 2, replace=False))
        code = int(low) * number + int(high)
        if code not in taken:
            taken.add(code)
            found.append((low, high))
    return np.array(found, np.int64).reshape(-1, 2)


def adversarial_edges(
    graph: graphs.Graph, targets: np.ndarray, ratio: float, rng: np.random.Generator
) -> np.ndarray:
    """`[A, 2]` pairs of nodes of different classes without an edge, `A = round(ratio E)`.

    References:
      Wu et al., "GIF: A General Graph Unlearning Strategy via Influence Function", WWW 2023.
    """
    checks.positive(ratio=ratio)
    size = max(1, round(ratio * len(graphs.pairs(graph))))
    known = targets >= 0
    within = {**graph, "node_mask": graph["node_mask"] & known}
    found = np.empty((0, 2), np.int64)
    for _ in range(100):
        more = non_edges(within, 2 * size, rng)
        more = more[targets[more[:, 0]] != targets[more[:, 1]]]
        found = np.unique(np.concatenate([found, more]), axis=0)
        if len(found) >= size:
            return found[np.sort(rng.permutation(len(found))[:size])]
    raise ValueError(f"ratio must leave pairs of different classes, got {ratio}")


def _nodes(rest: str, dataset: GraphDataset, rng: np.random.Generator) -> GraphRequest:
    chosen = _chosen(rest, dataset, rng)
    edited = graphs.without_nodes(dataset.graph, graphs.node_rows(dataset.graph, chosen))
    forget = _touching(dataset, chosen)
    retain = forget_sets.complement(forget, len(dataset.train["targets"]))
    targets = dataset.train["targets"]
    lost = np.setdiff1d(targets[forget], targets[retain]).tolist()
    note = f"No node of class {lost} is left to train on. " if lost else ""
    note += "Deleted nodes are asked about as they are served: without features and edges. "
    return GraphRequest(dataset.graph, edited, forget, retain, note)


def _features(rest: str, dataset: GraphDataset, rng: np.random.Generator) -> GraphRequest:
    chosen = _chosen(rest, dataset, rng)
    edited = graphs.without_features(dataset.graph, graphs.node_rows(dataset.graph, chosen))
    return _staying(dataset, dataset.graph, edited, _touching(dataset, chosen))


def _edges(rest: str, dataset: GraphDataset, rng: np.random.Generator) -> GraphRequest:
    kind, colon, text = rest.rpartition(":")
    if colon:
        checks.one_of(kind=(kind, ("in", "out", "adversarial")))
    graph = dataset.graph
    edges = graphs.pairs(graph)
    if kind == "adversarial":
        if dataset.train["inputs"].ndim == 2:
            raise ValueError("adversarial edges are for the classification of nodes")
        ratio = forget_sets.number(text, "ratio")
        gone = adversarial_edges(graph, dataset.targets, ratio, rng)
        graph = _with(graph, gone)
    else:
        if kind:
            ends = np.isin(np.arange(graphs.num_nodes(graph)), dataset.test["inputs"])
            near = np.asarray(graphs.k_hop(graph, ends, HOPS))[edges].all(1)
            edges = edges[near == (kind == "in")]
        gone = edges[_some(text, len(edges), rng)]
    edited = graphs.without_edges(graph, graphs.edge_rows(graph, gone))
    inputs = dataset.train["inputs"]
    if inputs.ndim == 1:
        return _staying(dataset, graph, edited, np.flatnonzero(np.isin(inputs, gone)))
    wanted = set(map(tuple, np.sort(gone, axis=1).tolist()))
    forget = [i for i, pair in enumerate(np.sort(inputs, axis=1).tolist()) if tuple(pair) in wanted]
    forget = np.array(forget, np.int64)
    retain = forget_sets.complement(forget, len(inputs))
    return GraphRequest(graph, edited, forget, retain)


_KINDS: dict[str, Callable[..., GraphRequest]] = {
    "nodes": _nodes,
    "edges": _edges,
    "features": _features,
}


def _staying(dataset, graph, edited, forget: np.ndarray) -> GraphRequest:
    """A request after which all examples are still there."""
    if not len(forget):
        raise ValueError("what is to be forgotten must belong to examples that are trained on")
    note = (
        f"The forget set are {len(forget)} training examples that what is deleted belongs to; they "
        "stay in the retain set, and oracles train on them. "
    )
    return GraphRequest(graph, edited, forget, np.arange(len(dataset.train["targets"])), note)


def _chosen(rest: str, dataset: GraphDataset, rng: np.random.Generator) -> np.ndarray:
    """Ids of nodes."""
    inputs = dataset.train["inputs"]
    if inputs.ndim == 2:
        ids = np.unique(inputs[inputs >= 0])
        return ids[_some(rest, len(ids), rng)]
    spec = rest if ":" in rest else f"random:{rest}"
    chosen = forget_sets.select(spec, dataset.train, dataset.test, rng).forget
    return inputs[chosen]


def _some(text: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Random places of a share, or of so many."""
    if not size:
        raise ValueError("there must be some to choose from, the graph has none of these")
    if text.isdecimal():
        return forget_sets.random_count(rng, size, int(text))
    return forget_sets.random_fraction(rng, size, forget_sets.number(text, "share"))


def _touching(dataset: GraphDataset, chosen: np.ndarray) -> np.ndarray:
    """Positions of the training examples of these nodes."""
    inputs = dataset.train["inputs"]
    found = np.isin(inputs, chosen)
    return np.flatnonzero(found if inputs.ndim == 1 else found.any(1))


def _with(graph: graphs.Graph, edges: np.ndarray) -> graphs.Graph:
    """The graph with these further edges."""
    made = graphs.graph(
        np.zeros((graphs.num_nodes(graph), 1)), np.concatenate([graphs.pairs(graph), edges])
    )
    return {**made, "nodes": graph["nodes"], "node_mask": graph["node_mask"]}
