import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import networks, problems
from unlearnjax import training, unlearning
from unlearnjax.data import graphs
from unlearnjax.types import Request
from unlearnjax.unlearning.graph import eraser as room

TASK, DATA = networks.task(), networks.data()
# Two cliques of six, joined by one edge: the communities are there to be found.
CLIQUES = np.array(
    [[i, j] for s in (0, 6) for i in range(s, s + 6) for j in range(i + 1, s + 6)] + [[0, 6]]
)
GRAPH = jax.tree.map(jnp.asarray, graphs.graph(networks.features(), CLIQUES))


def part(rows):
    return {name: value[rows] for name, value in DATA.items()}


def test_communities_are_found_within_their_bound():
    found = np.asarray(unlearning.communities(jax.random.key(1), GRAPH, 2, slack=0.5))
    assert len(set(found[:6])) == 1 == len(set(found[6:])) and found[0] != found[6]
    for slack, largest in ((0.0, 4), (0.3, 6)):
        find = jax.jit(lambda key, slack=slack: unlearning.communities(key, GRAPH, 3, slack=slack))
        for seed in range(3):
            found = find(jax.random.key(seed))
            assert np.bincount(found, minlength=3).max() <= largest
    # Without rounds it is the random even start.
    start = unlearning.communities(jax.random.key(0), GRAPH, 3, num_rounds=0)
    assert np.bincount(start).tolist() == [4, 4, 4]
    # Nodes without neighbours stay.
    lonely = graphs.without_edges(GRAPH, np.ones(len(GRAPH["senders"]), bool))
    stayed = unlearning.communities(jax.random.key(0), lonely, 3)
    np.testing.assert_array_equal(stayed, start)


@pytest.fixture(scope="module")
def shards():
    method = unlearning.graph_eraser(
        optax.sgd(0.3), num_shards=2, num_epochs=3, batch_size=12, slack=0.5
    )
    model = {"params": {}, "graph": GRAPH}
    init = jax.jit(lambda model: method.init(jax.random.key(1), TASK, model, DATA))
    return unlearning.enforce(method), *init(model)


def test_shards_train_on_what_lies_within_them_and_are_served_with_all(shards):
    _, deployed, memory = shards
    own = np.asarray(memory.division)
    for s in range(2):
        inside = jax.tree.map(lambda x, s=s: x[s], memory.start["graph"])
        kept = np.asarray(GRAPH["edge_mask"]) & (own[np.stack([GRAPH["senders"],
               GRAPH["receivers"]])] == s).all(0)  # fmt: skip
        np.testing.assert_array_equal(inside["edge_mask"], kept)
        np.testing.assert_array_equal(inside["node_mask"], own == s)
        assert not np.asarray(inside["nodes"])[own != s].any()
        problems.assert_trees_equal(jax.tree.map(lambda x, s=s: x[s], deployed["graph"]), GRAPH)
    np.testing.assert_array_equal(memory.shard, own)


def test_a_deletion_trains_its_shard_anew_and_no_other(shards):
    method, deployed, memory = shards
    update = jax.jit(lambda *args: method.update(jax.random.key(2), TASK, *args))
    cut = graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [3]))
    # What is forgotten has weight 0 and an id of no example, so that both requests are one program.
    gone = np.arange(networks.N) == 3
    kept = {**DATA, "weight": np.float32(~gone), "index": np.where(gone, 99, DATA["index"])}
    request = Request(part([3]), kept, edited={"graph": cut})
    after, left = update(deployed, memory, request)
    touched = int(memory.division[3])
    for s in range(2):
        apart = jax.tree.map(lambda a, b, s=s: float(jnp.abs(a[s] - b[s]).max()),
                             after["params"], deployed["params"])  # fmt: skip
        assert (max(jax.tree.leaves(apart)) > 0) == (s == touched)
        problems.assert_trees_equal(jax.tree.map(lambda x, s=s: x[s], after["graph"]), cut)
    # As a shard that never had the node: trained by hand on what is left within it.
    own = np.asarray(memory.division) == touched
    inside = graphs.without_nodes(cut, ~own)
    start = {"params": jax.tree.map(lambda x: x[touched], memory.start["params"])}
    rows = jnp.where(jnp.asarray(own & (networks.ALL != 3)), networks.ALL, -1)
    order = jnp.concatenate([rows[rows >= 0], jnp.full((rows < 0).sum(), -1)])
    key = jax.random.fold_in(jax.random.fold_in(memory.rng, touched), 0)
    recipe = training.descent(TASK, optax.sgd(0.3))

    @jax.jit
    def by_hand(order, key, start):
        state = recipe.start(DATA, key, start)
        state, _ = training.run_epochs(
            recipe.step, state, DATA, order, key, num_epochs=3, batch_size=12
        )
        return training.deploy(state)["params"]

    expected = by_hand(order, key, {**start, "graph": inside})
    found = jax.tree.map(lambda x: x[touched], after["params"])
    problems.assert_trees_close(found, expected, 1e-5)
    assert left.active.sum() == networks.N - 1
    # An edge between shards is nobody's.
    bridge = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, np.array([[0, 6]])))
    weighted = {**DATA, "weight": np.ones(networks.N, np.float32)}
    whole = Request(part([0]), weighted, edited={"graph": bridge})
    same, left = update(deployed, memory, whole)
    problems.assert_trees_equal(same["params"], deployed["params"])
    assert left.active.all()  # the example stays


def test_what_it_cannot_divide_is_refused():
    method = unlearning.graph_eraser(optax.sgd(0.1), num_shards=13)
    model = {"params": {}, "graph": GRAPH}
    with pytest.raises(ValueError, match="num_shards must be at most the 12 nodes"):
        method.init(jax.random.key(0), TASK, model, DATA)
    pairs = {**DATA, "inputs": np.zeros((12, 2), int)}
    method = unlearning.graph_eraser(optax.sgd(0.1), num_shards=2)
    with pytest.raises(ValueError, match="classification of nodes, got pairs"):
        method.init(jax.random.key(0), TASK, model, pairs)
    with pytest.raises(ValueError, match="slack must be >= 0"):
        unlearning.graph_eraser(optax.sgd(0.1), slack=-0.1)


def test_plain_shards_all_see_the_graph_and_all_train_anew():
    method = unlearning.enforce(
        unlearning.sisa(optax.sgd(0.3), num_shards=2, num_slices=1, num_epochs=1, batch_size=6)
    )
    model = {"params": {}, "graph": GRAPH}
    deployed, memory = jax.jit(lambda model: method.init(jax.random.key(1), TASK, model, DATA))(
        model
    )
    cut = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, CLIQUES[:9]))
    update = jax.jit(lambda *args: method.update(jax.random.key(2), TASK, *args))
    run = lambda graph: update(
        deployed, memory, Request(part([0]), DATA, edited={"graph": graph})
    )[0]["params"]  # fmt: skip
    kernel = lambda params: np.asarray(params["layer_0"]["Linear_0"]["kernel"])
    changed = kernel(run(cut)) != kernel(deployed["params"])
    assert changed.any(axis=(1, 2)).all()
    # On the same graph, from which nothing goes, everything is as it was.
    np.testing.assert_array_equal(kernel(run(GRAPH)), kernel(deployed["params"]))


def test_a_round_lets_nodes_in_one_after_another_while_there_is_room():
    """By hand, of a graph in which many wish to move; a tenth more than half is room for 7."""
    drawn = np.triu(np.random.default_rng(0).random((12, 12)) < 0.5, 1)
    graph = graphs.graph(networks.features(), np.argwhere(drawn))
    run = jax.jit(lambda key: unlearning.communities(key, graph, 2, num_rounds=2))
    refused = 0
    for key in jax.random.split(jax.random.key(0), 3):
        own = np.array(jax.random.permutation(key, 12) % 2)
        for _ in range(2):
            counts = (drawn | drawn.T).astype(int) @ np.eye(2, dtype=int)[own]
            wish, most, home = counts.argmax(1), counts.max(1), counts[networks.ALL, own]
            for node in np.argsort(-most, kind="stable"):
                if most[node] > home[node]:
                    fits = (own == wish[node]).sum() < 7
                    refused += not fits
                    own[node] = wish[node] if fits else own[node]
        np.testing.assert_array_equal(run(key), own)
    assert refused


def test_communities_are_of_the_bound_and_the_rounds_that_are_said(monkeypatch):
    seen = []

    def communities(rng, graph, number, **options):
        seen.append((number, options))
        return networks.ALL % number

    monkeypatch.setattr(room, "communities", communities)
    model = {"params": {}, "graph": GRAPH}
    for options in ({}, {"slack": 0.3, "num_rounds": 5}):
        method = unlearning.graph_eraser(optax.sgd(0.1), num_shards=2, **options)
        jax.eval_shape(lambda model, m=method: m.init(jax.random.key(0), TASK, model, DATA), model)
        assert seen[-1] == (2, {"slack": 0.1, "num_rounds": 20} | options)
