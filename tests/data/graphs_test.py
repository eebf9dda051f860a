import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.neighbors import kneighbors_graph

from tests import networks
from unlearnjax.data import graph_requests, graphs, planetoid

GRAPH = networks.small()


def small_set(seed=0):
    splits = np.array([0, 1, 2, 3, 4, 5, 6]), np.array([7, 8]), np.array([9, 10, 11])
    targets = networks.data()["targets"]
    return planetoid.dataset(GRAPH, targets, splits, ("a", "b", "c"))


def test_edges_lie_in_both_directions_and_come_back():
    np.testing.assert_array_equal(graphs.pairs(GRAPH), networks.EDGES)
    half = len(networks.EDGES)
    np.testing.assert_array_equal(GRAPH["senders"][half:], GRAPH["receivers"][:half])
    np.testing.assert_array_equal(GRAPH["receivers"][half:], GRAPH["senders"][:half])
    assert graphs.num_nodes(GRAPH) == networks.N and GRAPH["senders"].dtype == np.int32


def test_what_is_deleted_cannot_be_read_any_more():
    edges = networks.EDGES[[2, 6]][:, ::-1]
    cut = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, edges))
    np.testing.assert_array_equal(graphs.pairs(cut), np.delete(networks.EDGES, [2, 6], axis=0))
    gone = np.flatnonzero(~cut["edge_mask"])
    assert gone.tolist() == [2, 6, 14, 18]
    assert not cut["senders"][gone].any() and not cut["receivers"][gone].any()
    nodes = graphs.node_rows(GRAPH, [3, 9])
    cut = graphs.without_nodes(GRAPH, nodes)
    assert not np.isin(graphs.pairs(cut), [3, 9]).any()
    assert len(graphs.pairs(cut)) == len(networks.EDGES) - 4
    for name in ("senders", "receivers"):
        assert not np.isin(np.asarray(cut[name]), [3, 9]).any()
    assert not np.asarray(cut["nodes"])[[3, 9]].any()
    assert np.flatnonzero(~cut["node_mask"]).tolist() == [3, 9]
    np.testing.assert_array_equal(
        np.delete(cut["nodes"], [3, 9], 0), np.delete(GRAPH["nodes"], [3, 9], 0)
    )
    blank = graphs.without_features(GRAPH, nodes)
    assert not np.asarray(blank["nodes"])[[3, 9]].any() and blank["node_mask"].all()
    assert (blank["edge_mask"] == GRAPH["edge_mask"]).all()


def test_neighbourhoods_are_powers_of_the_adjacency_matrix():
    matrix = scipy.sparse.csr_matrix(networks.adjacency(networks.EDGES) + np.eye(networks.N))
    start = graphs.node_rows(GRAPH, [3, 11])
    for number in range(4):
        expected = (matrix**number if number else scipy.sparse.eye(networks.N)) @ start > 0
        np.testing.assert_array_equal(graphs.k_hop(GRAPH, start, number), expected)
    # A deleted edge is no way; a way from the first node over masked places is none, either.
    cut = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, networks.EDGES[:3]))
    assert np.flatnonzero(graphs.k_hop(cut, jnp.arange(networks.N) == 0, 3)).tolist() == [0]


def test_what_changed_are_the_ends_of_edges_and_nodes_of_other_features():
    changed = lambda after: np.flatnonzero(graphs.changed(GRAPH, after)).tolist()
    assert changed(GRAPH) == []
    edges = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, networks.EDGES[[4]]))
    assert changed(edges) == [3, 4]
    assert np.flatnonzero(graphs.changed(edges, GRAPH)).tolist() == [3, 4]
    assert changed(graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [6]))) == [5, 6, 7]
    assert changed(graphs.without_features(GRAPH, graphs.node_rows(GRAPH, [6]))) == [6]
    words = graphs.graph(scipy.sparse.csr_matrix(networks.features()), networks.EDGES)
    blank = graphs.without_features(words, graphs.node_rows(words, [2]))
    assert np.flatnonzero(graphs.changed(words, blank)).tolist() == [2]


def test_nearest_neighbours_are_scikit_learns():
    x = np.random.default_rng(1).normal(size=(60, 4))
    theirs = kneighbors_graph(x, 3).toarray()
    theirs = np.argwhere(np.triu(theirs + theirs.T))
    np.testing.assert_array_equal(graphs.nearest(x, 3), theirs)
    with pytest.raises(ValueError, match=r"^number must lie in \[1, 59\], got 60"):
        graphs.nearest(x, 60)
    assert graphs.homophily(np.array([[0, 1], [1, 2]]), np.array([5, 5, 6])) == 0.5


def test_bad_graphs_are_refused_by_name():
    x = networks.features()
    for edges, why in (
        ([[0, 1], [1, 0]], r"listed once, in one direction, got \[0, 1\]|got \[1, 0\] again"),
        ([[0, 12]], r"join nodes 0 to 11, got \[0, 12\]"),
        ([[-1, 2]], r"join nodes 0 to 11, got \[-1, 2\]"),
        ([[4, 4]], r"join two nodes, got \[4, 4\]"),
        ([[0.0, 1.0]], "be integers, got float64"),
        (networks.EDGES.T, r"be \[E, 2\], an edge a row, got \[2, 12\]"),
        ([0, 1], r"be \[E, 2\], an edge a row, got \[2\]"),
    ):
        with pytest.raises(ValueError, match=rf"^edges must.*{why}"):
            graphs.graph(x, np.array(edges))
    assert graphs.graph(x, []).keys() == GRAPH.keys()  # there may be none
    for nodes in (x[:, 0], x[None]):
        with pytest.raises(ValueError, match=r"^nodes must be \[N, D\], got"):
            graphs.graph(nodes, networks.EDGES)
    for make in (graphs.undirected, lambda edges: graphs.edge_rows(GRAPH, edges)):
        with pytest.raises(ValueError, match="edges must be integers, got float64"):
            make(np.array([[0.5, 1.0]]))
    with pytest.raises(ValueError, match="features must be finite, got others in row 3"):
        graphs.nearest(np.where(networks.ALL[:, None] == 3, np.nan, x), 2)
    with pytest.raises(ValueError, match="nodes must be finite, got others in row 3"):
        graphs.graph(np.where(networks.ALL[:, None] == 3, np.nan, x), networks.EDGES)
    with pytest.raises(ValueError, match=r"both directions, got \[0, 2\] alone \(1 in all\)"):
        graphs.undirected(np.array([[0, 1], [1, 0], [0, 2]]), symmetric=True)
    for edges, why in (
        ([], "at least one"),
        ([[0, 5]], r"must be in the graph, \[0, 5\] is not"),
        ([[0, 1], [1, 0]], "named once"),
        ([[0, 99]], "join nodes"),
    ):
        with pytest.raises(ValueError, match=why):
            graphs.edge_rows(GRAPH, np.array(edges, int))
    # A deleted edge is in the graph no more, nor is one from the first node to itself.
    cut = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, networks.EDGES[[0]]))
    with pytest.raises(ValueError, match=r"\[0, 1\] is not"):
        graphs.edge_rows(cut, networks.EDGES[[0]])
    gone = graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [2]))
    for ids, of, why in (
        ([], GRAPH, "at least one"),
        ([12], GRAPH, "graph's 12, got 12"),
        ([-1], GRAPH, "got -1"),
        ([1, 1], GRAPH, "once"),
        ([1.5], GRAPH, r"integers \[n\], got float64"),
        ([[1, 2]], GRAPH, r"integers \[n\], got int64 \[1, 2\]"),
        ([2], gone, "graph's 11, got 2"),
    ):
        with pytest.raises(ValueError, match=rf"^nodes must .*{why}"):
            graphs.node_rows(of, ids)


def select(spec, dataset=None):
    dataset = small_set() if dataset is None else dataset
    return graph_requests.select(spec, dataset, np.random.default_rng(0))


def test_nodes_are_deleted_with_their_examples():
    for spec, number in (("nodes:2", 2), ("nodes:0.3", 2), ("nodes:class:1", 2)):
        request = select(spec)
        assert len(request.forget) == number
        ids = small_set().train["inputs"][request.forget]
        assert np.flatnonzero(~request.edited["node_mask"]).tolist() == ids.tolist()
        np.testing.assert_array_equal(request.retain, np.setdiff1d(np.arange(7), request.forget))
        assert request.graph is small_set().graph or request.graph["node_mask"].all()
    assert "No node of class [1] is left" in request.note


def test_edges_and_features_are_deleted_from_examples_that_stay():
    dataset = small_set()
    request = select("edges:2")
    lost = set(map(tuple, graphs.pairs(request.graph))) - set(
        map(tuple, graphs.pairs(request.edited))
    )
    assert len(lost) == 2
    touched = set(np.ravel(list(lost))) & set(dataset.train["inputs"])
    assert set(dataset.train["inputs"][request.forget]) == touched
    assert request.retain.tolist() == list(range(7))
    request = select("features:3")
    blank = np.flatnonzero(~np.asarray(request.edited["nodes"]).any(1))
    np.testing.assert_array_equal(blank, dataset.train["inputs"][request.forget])
    assert request.retain.tolist() == list(range(7)) and len(blank) == 3


def test_adversarial_edges_are_added_and_are_what_is_deleted():
    request = select("edges:adversarial:0.5")
    added = graphs.pairs(request.graph)[len(networks.EDGES) :]
    assert len(added) == 6
    targets = networks.data()["targets"]
    assert (targets[added[:, 0]] != targets[added[:, 1]]).all()
    np.testing.assert_array_equal(graphs.pairs(request.edited), networks.EDGES)
    assert jnp.shape(request.edited["senders"]) == (36,)


def test_pairs_are_split_without_leaks():
    dataset = graph_requests.linked(small_set(), shares=(0.2, 0.2))
    positive = lambda part: set(map(tuple, np.sort(part["inputs"][part["targets"] == 1]).tolist()))
    every = set(map(tuple, np.sort(networks.EDGES).tolist()))
    parts = [positive(part) for part in (dataset.train, dataset.val, dataset.test)]
    assert set.union(*parts) == every and sum(map(len, parts)) == len(every)
    kept = set(map(tuple, np.sort(graphs.pairs(dataset.graph)).tolist()))
    assert kept == parts[0] and dataset.graph["senders"].shape == (2 * len(kept),)
    assert (dataset.train["inputs"][dataset.train["targets"] == 0] == -1).all()
    negative = [part["inputs"][part["targets"] == 0] for part in (dataset.val, dataset.test)]
    negative = list(map(tuple, np.sort(np.concatenate(negative)).tolist()))
    assert len(negative) == 4 == len(set(negative)) and not every & set(negative)
    request = select("edges:2", dataset)
    gone = dataset.train["inputs"][request.forget]
    assert gone.shape == (2, 2) and len(request.retain) == len(dataset.train["targets"]) - 2
    left = set(map(tuple, np.sort(graphs.pairs(request.edited)).tolist()))
    assert left == parts[0] - set(map(tuple, np.sort(gone).tolist()))
    # The surroundings of the tested pairs, and what lies outside of them.
    ends = np.isin(networks.ALL, dataset.test["inputs"])
    near = np.asarray(graphs.k_hop(dataset.graph, ends, 2))
    inside = select("edges:in:1", dataset)
    assert near[dataset.train["inputs"][inside.forget]].all()
    request = select("nodes:1", dataset)
    (node,) = np.flatnonzero(~request.edited["node_mask"])
    assert (dataset.train["inputs"][request.forget] == node).any(1).all()


def test_what_the_graph_has_not_cannot_be_chosen_from():
    lonely = small_set()._replace(test={"inputs": np.array([10, 11])})
    with pytest.raises(ValueError, match="^forget='edges:in:1': there must be some to choose"):
        select("edges:in:1", lonely)
    few = lonely._replace(graph=graphs.graph(networks.features(), networks.EDGES[:2]))
    with pytest.raises(ValueError, match="number of edges must be >= 3, got 2"):
        graph_requests.linked(few)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("random:0.1", "kind must be one of"),
        ("edges:near:0.1", "kind must be one of"),
        ("edges:2.0", r"fraction must lie in \(0, 1\)"),
        ("edges:many", "share must be a number"),
        ("edges:99", r"count must lie in \[1, 12\)"),
        ("nodes:class:9", "class must be one of"),
        ("nodes:7", "count must lie in"),
        ("edges:adversarial:0", "ratio must be > 0"),
    ],
)
def test_bad_requests_are_refused(spec, why):
    with pytest.raises(ValueError, match=rf"^forget='{spec}': .*{why}"):
        select(spec)


def test_pairs_without_an_edge_are_all_others():
    """Of the 10 nodes that are left, and no more than there are."""
    graph = graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [4, 10]))
    left = np.delete(networks.ALL, [4, 10])
    edges = set(map(tuple, np.sort(graphs.pairs(graph)).tolist()))
    others = set(itertools.combinations(left.tolist(), 2)) - edges
    found = graph_requests.non_edges(graph, len(others), np.random.default_rng(0))
    assert found.shape == (45 - 9, 2) and set(map(tuple, found.tolist())) == others
    with pytest.raises(ValueError, match=r"without an edge must lie in \[0, 36\], got 99"):
        graph_requests.non_edges(graph, 99, np.random.default_rng(0))


def test_a_twentieth_of_the_edges_validates_and_tests():
    """Of a ring of 60 nodes whose features are words."""
    ring = np.stack([np.arange(60), np.roll(np.arange(60), 1)], axis=1)
    graph = graphs.graph(scipy.sparse.eye(60, format="csr"), ring)
    splits = np.arange(50), np.arange(50, 55), np.arange(55, 60)
    nodes = planetoid.dataset(graph, np.arange(60) % 3, splits, ("a", "b", "c"))
    made = graph_requests.linked(nodes)
    assert [len(part["targets"]) for part in (made.train, made.val, made.test)] == [108, 6, 6]
    assert made.graph["nodes"] is graph["nodes"]
    other = graph_requests.linked(nodes, seed=1)
    assert (made.test["inputs"] != other.test["inputs"]).any()


def test_adversarial_edges_are_all_pairs_of_different_known_classes_in_turn():
    targets = np.where(networks.ALL % 4 == 3, -1, networks.ALL % 4)
    known = lambda one, other: -1 < targets[one] != targets[other] > -1
    apart = {pair for pair in itertools.combinations(networks.ALL.tolist(), 2) if known(*pair)}
    drawn = [
        graph_requests.adversarial_edges(GRAPH, targets, 0.25, np.random.default_rng(seed))
        for seed in range(60)
    ]
    assert {len(edges) for edges in drawn} == {3}
    found = set(map(tuple, np.concatenate(drawn).tolist()))
    assert found == apart - set(map(tuple, np.sort(networks.EDGES, axis=1).tolist()))
