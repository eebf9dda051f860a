import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.metrics import log_loss

from tests import networks, problems
from unlearnjax import models, parallel, tasks, training, unlearning
from unlearnjax.data import graph_requests, graphs
from unlearnjax.tasks.graph import free_pairs
from unlearnjax.types import Request

GRAPH, DATA = networks.small(), networks.data()
TASK = networks.task()
ADAM = optax.adam(0.05)
APPLY = jax.jit(TASK.apply, static_argnums=3)


def trained(graph, key, num_epochs=3):
    """A model of that graph; what `vmap` maps over."""
    rows = jnp.arange(networks.N)
    given = {"num_epochs": num_epochs, "batch_size": 8, "start": {"graph": graph}}
    return training.fit(training.descent(TASK, ADAM), DATA, rows, key, **given)[0]


@pytest.fixture(scope="module")
def model():
    return jax.jit(trained)(GRAPH, jax.random.key(0))


def test_nodes_are_classified_by_the_graph_that_the_model_carries(model):
    assert set(TASK.init(jax.random.key(0), DATA)) == {"params"}
    problems.assert_trees_equal(model["graph"], GRAPH)  # integers and all
    assert model["graph"]["senders"].dtype == jnp.int32
    outputs, again = APPLY(model, DATA, jax.random.key(0), True)
    problems.assert_trees_equal(again["graph"], GRAPH)
    probs = np.asarray(jax.nn.softmax(outputs["logits"]), np.float64)
    loss = TASK.loss(outputs, DATA)
    assert loss.mean() == pytest.approx(log_loss(DATA["targets"], probs), rel=1e-5)
    some = {name: value[[7, 2]] for name, value in DATA.items()}
    rows, _ = APPLY(model, some, None, False)
    for name in ("logits", "features", "layer_0"):
        np.testing.assert_allclose(rows[name], outputs[name][jnp.array([7, 2])], rtol=1e-6)
    with pytest.raises(ValueError, match="must have the collection 'graph'"):
        TASK.apply({"params": model["params"]}, DATA, None, False)


def test_eight_devices_train_as_one(model):
    with jax.set_mesh(parallel.mesh()):
        assert parallel.num_parts(8) == 8
        spread = jax.jit(trained)(GRAPH, jax.random.key(0))
    problems.assert_trees_close(jax.device_get(spread), jax.device_get(model), 1e-5)


def test_many_deletions_train_side_by_side_as_one_after_another():
    gone = jnp.stack([jnp.asarray(graphs.node_rows(GRAPH, [i])) for i in (1, 6)])
    cut = jax.vmap(lambda own: graphs.without_nodes(GRAPH, own))(gone)
    keys = jax.random.split(jax.random.key(1), 2)
    both = jax.jit(jax.vmap(trained))(cut, keys)
    alone = jax.jit(trained)
    for i in range(2):
        one = alone(jax.tree.map(lambda x, i=i: x[i], cut), keys[i])
        problems.assert_trees_close(jax.tree.map(lambda x, i=i: x[i], both), one, 1e-5)


def test_retrained_models_and_teachers_start_on_the_edited_graph_and_nothing_compiles_again(model):
    method = unlearning.enforce(unlearning.retrain(ADAM, num_epochs=2, batch_size=4))
    update = jax.jit(lambda model, request: method.update(
        jax.random.key(0), TASK, model, (), request
    ))  # fmt: skip

    def request(edges):
        cut = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, edges))
        return Request({k: v[:3] for k, v in DATA.items()}, DATA, edited={"graph": cut})

    for edges in (networks.EDGES[:2], networks.EDGES[4:9]):
        asked = request(edges)
        fresh, _ = update(model, asked)
        problems.assert_trees_equal(fresh["graph"], asked.edited["graph"])
        codes = np.asarray(fresh["graph"]["senders"]) * networks.N + fresh["graph"]["receivers"]
        low, high = edges.min(1), edges.max(1)
        assert not np.isin([low * networks.N + high, high * networks.N + low], codes).any()
        both = fresh["params"], model["params"]
        apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *both)
        assert min(jax.tree.leaves(apart)) > 0
    assert update._cache_size() == 1
    with pytest.raises(ValueError, match=r"must have edited=\{'graph': ...\}"):
        update(model, asked._replace(edited=None))
    make = lambda model, asked: unlearning.incompetent_model(
        jax.random.key(2), TASK, {**model, **asked.edited}, asked
    )
    novice = jax.jit(make)(model, asked)
    problems.assert_trees_equal(novice["graph"], asked.edited["graph"])


LINKED = graph_requests.linked(
    graph_requests.GraphDataset(
        DATA, DATA, DATA, 3, ("a", "b", "c"), np.zeros(()), np.ones(()), GRAPH, DATA["targets"]
    ),
    shares=(0.2, 0.2),
)


def test_links_are_two_classes_by_the_product_of_embeddings():
    module = models.GCN(2, hidden=(4,), out=3, dropout=0.0)
    model = tasks.from_linen(module, ("graph",))
    task = tasks.link_prediction(model, LINKED.graph)
    start = {"graph": LINKED.graph}
    variables = training.init_variables(task, LINKED.test, jax.random.key(0), start)
    outputs, _ = jax.jit(task.apply, static_argnums=3)(variables, LINKED.test, None, False)
    params = {"params": variables["params"]}
    z = np.asarray(jax.jit(module.apply)(params, LINKED.graph)["logits"], np.float64)
    pairs = LINKED.test["inputs"]
    score = (z[pairs[:, 0]] * z[pairs[:, 1]]).sum(1)
    np.testing.assert_allclose(outputs["logits"], np.stack([0 * score, score], 1), atol=1e-5)
    probability = 1 / (1 + np.exp(-score))
    binary = log_loss(LINKED.test["targets"], probability, labels=[0, 1])
    assert task.loss(outputs, LINKED.test).mean() == pytest.approx(binary, rel=1e-4)
    assert outputs["layer_0"].shape == (4, 2, 4) and outputs["features"].shape == (4, 3)
    # Pairs of -1 are drawn, anew in every step, and are no edges.
    seen, negative = set(), LINKED.train["targets"] == 0

    @jax.jit
    def look(key):
        batch = tasks.keyed({**LINKED.train, "weight": jnp.ones(16)}, key)
        batch = tasks.drawn(task, batch, True)
        found = free_pairs(LINKED.graph, batch["proposals"])
        drawn = {**batch, "inputs": jnp.where(negative[:, None], found, batch["inputs"])}
        del drawn["proposals"]
        return found, [task.apply(variables, b, None, False)[0]["logits"] for b in (batch, drawn)]

    for seed in range(3):
        found, logits = look(jax.random.key(seed))
        seen.add(tuple(np.asarray(found)[negative].ravel().tolist()))
        np.testing.assert_allclose(*logits, rtol=1e-6)
    assert len(seen) == 3
    evaluate = jax.jit(lambda variables: training.evaluate(task, variables, LINKED.train))
    losses = evaluate(variables)["loss"]
    assert losses.shape == (16,) and jnp.isfinite(losses).all()


def test_of_the_proposals_the_first_that_is_no_edge_is_taken():
    gone = graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [3]))
    proposals = jnp.array(
        [
            [[0, 1], [5, 5], [9, 3], [0, 7], [0, 8]],  # an edge, a loop, a deleted node, free, free
            [[1, 0], [2, 1], [4, 4], [0, 2], [7, 6]],  # nothing is free: the last
            [[10, 11], [0, 1], [0, 1], [0, 1], [0, 1]],
        ]
    )
    free = jax.jit(free_pairs)
    assert free(gone, proposals).tolist() == [[0, 7], [7, 6], [10, 11]]
    # Of a deleted edge, the pair is free again; a masked place is no edge of the first node.
    cut = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, networks.EDGES[[0]]))
    assert free(cut, proposals)[0].tolist() == [0, 1]
    # Of a graph without any edge, too.
    none = {n: GRAPH[n][:0] for n in ("senders", "receivers", "edge_mask")}
    assert free({**GRAPH, **none}, proposals)[0].tolist() == [0, 1]


def test_too_many_nodes_for_32_bits_are_refused():
    wide = {**GRAPH, "node_mask": jnp.ones(50_000, bool)}
    with pytest.raises(ValueError, match=r"number of nodes must lie in \[2, 46340\], got 50000"):
        tasks.link_prediction(tasks.from_linen(models.GCN(2), ("graph",)), wide)
    with pytest.raises(ValueError, match="got 50000"):
        free_pairs(wide, jnp.zeros((1, 2, 2), int))
