import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import networks
from unlearnjax import curvature, models, tasks, unlearning
from unlearnjax.data import graphs
from unlearnjax.types import Request
from unlearnjax.unlearning.graph.influence import deleted_and_near

GRAPH = networks.small()
Y = np.random.default_rng(3).normal(size=networks.N).astype(np.float32)
DATA = {**networks.data(), "targets": Y}
RIDGE = 0.4
TASK = tasks.on_nodes(tasks.regression, tasks.from_linen(models.SGC(1), ("graph",)), GRAPH)
TRAIN = np.arange(9)  # 9 to 11 are never trained on


def solved(edges, x, rows):
    """Ridge regression on `A^2 X` in closed form, float64."""
    a = networks.normalised(edges)
    z = np.concatenate([a @ a @ x, np.ones((networks.N, 1))], 1)[rows]
    theta = np.linalg.solve(z.T @ z + RIDGE * np.eye(z.shape[1]), z.T @ Y[rows])
    return {"layer_0": {"kernel": theta[:-1, None]}, "bias": theta[-1:]}


def part(rows):
    return {name: value[rows] for name, value in DATA.items()}


START = jax.tree.map(np.float32, solved(networks.EDGES, networks.features(), TRAIN))


@functools.cache
def compiled(**options):
    """One program for all requests of a shape."""
    method = unlearning.enforce(unlearning.graph_influence(**options))
    return jax.jit(lambda *args: method.update(jax.random.key(0), TASK, *args)[0]["params"])


def forgotten(request, **options):
    options = {"damping": RIDGE / len(request.retain["index"]), **options}
    model = {"params": START, "graph": jax.tree.map(jnp.asarray, GRAPH)}
    return compiled(**options)(model, (), request)


def distance(one, other):
    return max(
        float(np.abs(np.asarray(a) - b).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


NODES = graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [2, 7]))
KEPT = np.setdiff1d(TRAIN, [2, 7])
CUT = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, networks.EDGES[[1, 5]]))
BLANK = graphs.without_features(GRAPH, graphs.node_rows(GRAPH, [2, 4]))


def case(name):
    """A request, and the retrained model of it."""
    x = networks.features().astype(np.float64)
    if name == "nodes":
        edges = networks.EDGES[~np.isin(networks.EDGES, [2, 7]).any(1)]
        x[[2, 7]] = 0
        asked = Request(part([2, 7]), part(KEPT), edited={"graph": NODES})
        return asked, solved(edges, x, KEPT)
    if name == "edges":
        edges = np.delete(networks.EDGES, [1, 5], axis=0)
        return Request(part([1, 2]), part(TRAIN), edited={"graph": CUT}), solved(edges, x, TRAIN)
    x[[2, 4]] = 0
    asked = Request(part([2, 4]), part(TRAIN), edited={"graph": BLANK})
    return asked, solved(networks.EDGES, x, TRAIN)


@pytest.mark.parametrize(
    ("name", "hops"), [("nodes", None), ("edges", None), ("features", None), ("edges", 2)]
)
def test_one_step_on_a_quadratic_is_retraining(name, hops):
    request, expected = case(name)
    assert distance(forgotten(request, hops=hops), expected) < 2e-5
    assert distance(START, expected) > 1e-3


def test_who_looks_less_far_than_the_influence_goes_is_wrong():
    request, expected = case("edges")
    assert distance(forgotten(request, hops=0), expected) > 1e-3


def test_noise_is_added_to_as_much_of_the_step_as_is_asked_for():
    request, _ = case("edges")
    noisy = forgotten(request, alpha=0.0, noise=0.1)
    apart = np.concatenate(
        [np.ravel(a - b) for a, b in zip(*map(jax.tree.leaves, (noisy, START)), strict=True)]
    )
    assert 0.03 < apart.std() < 0.3


def test_the_original_hessian_is_that_of_all_examples_on_the_original_graph():
    request, _ = case("nodes")
    x = networks.features().astype(np.float64)
    rows = TRAIN
    a = networks.normalised(networks.EDGES)
    z = np.concatenate([a @ a @ x, np.ones((networks.N, 1))], 1)
    old = solved(networks.EDGES, x, rows)
    theta = np.append(old["layer_0"]["kernel"].ravel(), old["bias"])
    edges = networks.EDGES[~np.isin(networks.EDGES, [2, 7]).any(1)]
    b = networks.normalised(edges)
    x[[2, 7]] = 0
    new = np.concatenate([b @ b @ x, np.ones((networks.N, 1))], 1)[KEPT]
    before = z[rows].T @ (z[rows] @ theta - Y[rows])
    after = new.T @ (new @ theta - Y[KEPT])
    hessian = z[rows].T @ z[rows] + RIDGE * np.eye(z.shape[1])
    theta = theta + np.linalg.solve(hessian, before - after)
    expected = {"layer_0": {"kernel": theta[:-1, None]}, "bias": theta[-1:]}
    found = forgotten(request, hessian="original", damping=RIDGE / len(rows))
    assert distance(found, expected) < 2e-5


def test_pairs_that_are_drawn_may_be_near():
    pairs = np.array([[0, 10], [1, 8], [-1, -1], [6, 7]])
    retain = {"inputs": pairs, "index": np.arange(4), "targets": np.zeros(4, int)}
    forget = {**retain, "index": np.arange(4, 8)}
    for hops, expected in ((0, [0, 1, 1, 0]), (None, [1, 1, 1, 1])):
        near = deleted_and_near(Request(forget, retain), GRAPH, CUT, hops)[1]
        assert near["weight"].tolist() == expected


def test_bad_values_are_refused():
    for options, why in (
        ({"hops": -1}, "hops must be >= 0"),
        ({"hessian": "fisher"}, "hessian must be one of"),
        ({"noise": -1.0}, "noise must be >= 0"),
    ):
        with pytest.raises(ValueError, match=why):
            unlearning.graph_influence(**options)
    with pytest.raises(ValueError, match="the model carries no collection 'graph'"):
        unlearning.graph_influence().update(
            jax.random.key(0), TASK, {"params": {}}, (), Request(part([0]), part([1]))
        )


def test_of_pairs_those_are_near_of_which_an_end_is():
    """The edges 1 to 2 and 5 to 4 are cut."""
    pairs = np.array([[0, 1], [0, 3], [4, 3], [2, 5], [6, 7]])
    retain = {"inputs": pairs, "index": 2 + np.arange(5), "weight": np.full(5, 0.5)}
    forget = {"inputs": networks.EDGES[[1, 5]], "index": np.arange(2)}
    deleted, near = deleted_and_near(Request(forget, retain), GRAPH, CUT, 0)
    assert deleted["weight"].tolist() == [1, 1] and near["weight"].tolist() == [0.5, 0, 0.5, 0.5, 0]


@pytest.mark.parametrize("options", [{}, {"scale": 4.0, "num_steps": 7, "method": "lissa"}])
def test_the_inverse_is_asked_for_as_it_is_said(options, monkeypatch):
    seen, request = {}, case("edges")[0]

    def inverse(task, variables, data, vector, **given):
        seen.update(given)
        return vector

    monkeypatch.setattr(curvature, "inverse_hessian_vector_product", inverse)
    method = unlearning.graph_influence(batch_size=5, **options)
    params = {"layer_0": {"kernel": jnp.ones((networks.D, 1))}, "bias": jnp.ones(1)}
    update = lambda params: method.update(
        jax.random.key(0), TASK, {"params": params, "graph": CUT}, (),
        request._replace(original={"params": params, "graph": GRAPH}),
    )[0]  # fmt: skip
    jax.eval_shape(update, params)
    del seen["rng"]
    usual = {"method": "cg", "damping": 0.01, "num_steps": 50, "scale": 10.0, "batch_size": 5}
    assert seen == usual | options
