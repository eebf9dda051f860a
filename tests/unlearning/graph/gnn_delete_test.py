import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import networks, problems
from unlearnjax import models, tasks, unlearning
from unlearnjax.data import graphs
from unlearnjax.types import Request
from unlearnjax.unlearning.graph import gnn_delete as room

GRAPH = jax.tree.map(jnp.asarray, networks.small())
TASK, DATA = networks.task(), networks.data()
CUT = graphs.without_edges(GRAPH, graphs.edge_rows(GRAPH, networks.EDGES[[4]]))  # 3 and 4
NODES = {"inputs": jnp.arange(networks.N)}
SERVED = unlearning.gnn_delete(optax.sgd(0.1)).serve(TASK)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    params = {
        "layer_0": {"Linear_0": {"kernel": rng.normal(size=(5, 4))}, "bias": rng.normal(size=4)},
        "layer_1": {"Linear_0": {"kernel": rng.normal(size=(4, 3))}, "bias": rng.normal(size=3)},
    }
    return {"params": jax.tree.map(np.float32, params), "graph": GRAPH}


ALPHA = 0.3


@functools.cache
def compiled(**options):
    method = unlearning.gnn_delete(optax.sgd(0.1), num_steps=1, alpha=ALPHA, **options)
    update = unlearning.enforce(method).update
    return jax.jit(lambda *args: update(jax.random.key(0), TASK, *args)[0])


def forgotten(model, graph=CUT, **options):
    request = Request({k: v[:2] for k, v in DATA.items()}, edited={"graph": graph})
    return compiled(**options)(model, (), request)


@functools.partial(jax.jit, static_argnums=0)
def applied(task, model):
    return task.apply(model, NODES, None, False)[0]


def outputs(task, model):
    return jax.tree.map(np.asarray, applied(task, model))


def test_matrices_touch_the_neighbourhood_alone(model):
    after = forgotten(model)
    reached = [np.flatnonzero(after["operated"][name]).tolist() for name in ("layer_0", "layer_1")]
    assert reached == [[2, 3, 4, 5, 9], [0, 1, 2, 3, 4, 5, 6, 8, 9]]
    assert set(after) == {"params", "base", "operated", "graph"}
    assert {k: v.shape for k, v in after["params"].items()} == {
        "layer_0": (4, 4),
        "layer_1": (3, 3),
    }
    problems.assert_trees_equal(after["base"], model["params"])
    problems.assert_trees_equal(after["graph"], CUT)
    frozen = outputs(TASK, {**model, "graph": CUT})
    seen = outputs(SERVED, after)
    far = np.setdiff1d(networks.ALL, reached[0])
    np.testing.assert_array_equal(seen["layer_0"][far], frozen["layer_0"][far])
    np.testing.assert_array_equal(seen["logits"][[7, 10, 11]], frozen["logits"][[7, 10, 11]])
    matrix = np.asarray(after["params"]["layer_0"])
    near = reached[0]
    np.testing.assert_allclose(seen["layer_0"][near], frozen["layer_0"][near] @ matrix, rtol=1e-5)
    # The served task is the method's, and identity matrices are the frozen network.
    one = {name: jnp.eye(len(w)) for name, w in after["params"].items()}
    same = outputs(SERVED, {**after, "params": one})
    np.testing.assert_allclose(same["logits"], frozen["logits"], rtol=1e-5, atol=1e-6)


def test_strangers_stay_and_never_had_an_edge():
    cut = graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [3, 8]))
    pairs = np.concatenate(
        [room.strangers(jax.random.key(seed), GRAPH, cut) for seed in range(2)]
    )  # fmt: skip
    assert len(pairs) == 2 * len(GRAPH["senders"])
    assert not np.isin(pairs, [3, 8]).any()
    assert not networks.adjacency(networks.EDGES)[pairs[:, 0], pairs[:, 1]].any()


def test_a_step_is_the_gradient_of_each_layers_own_loss(model):
    """By hand, in NumPy, for the pairs that are drawn."""
    drawn = np.asarray(room.strangers(jax.random.key(0), GRAPH, CUT))
    after = forgotten(model)
    frozen = outputs(TASK, {**model, "graph": CUT})
    gone = [4, 16]
    a = networks.normalised(np.delete(networks.EDGES, 4, axis=0))
    params, h_in = model["params"], None
    for name in ("layer_0", "layer_1"):
        h = frozen[name].astype(np.float64)
        reached = np.asarray(after["operated"][name])
        # What comes in, behind the first matrix.
        raw = h if h_in is None else (
            a @ np.maximum(h_in, 0) @ params[name]["Linear_0"]["kernel"] + params[name]["bias"]
        )  # fmt: skip
        w = np.full((h.shape[1],) * 2, 1e-3)
        behind = np.where(reached[:, None], raw @ w, raw)
        slope = np.zeros_like(behind)
        for place in gone:
            ends = [GRAPH["senders"][place], GRAPH["receivers"][place]]
            for end, other in zip(ends, drawn[place], strict=True):
                slope[end] += ALPHA * 2 * (behind[end] - h[other]) / (2 * 2 * h.shape[1])
        near = reached & ~np.isin(networks.ALL, [3, 4])
        difference = 2 * (behind - h) / (near.sum() * h.shape[1])
        slope += (1 - ALPHA) * np.where(near[:, None], difference, 0)
        expected = w - 0.1 * raw[reached].T @ slope[reached]
        np.testing.assert_allclose(after["params"][name], expected, rtol=1e-4, atol=1e-6)
        h_in = behind


def test_nothing_deleted_is_nothing_touched(model):
    after = forgotten(model, graph=GRAPH)
    assert not any(mask.any() for mask in after["operated"].values())
    seen = outputs(SERVED, after)
    np.testing.assert_array_equal(seen["logits"], outputs(TASK, model)["logits"])


def test_bad_values_are_refused(model):
    for options, why in (
        ({"alpha": 2.0}, r"alpha must lie in \[0, 1\]"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"layers": "layer_0"}, "layers must be several names"),
    ):
        with pytest.raises(ValueError, match=why):
            unlearning.gnn_delete(optax.sgd(0.1), **options)
    with pytest.raises(ValueError, match=r"layers must be among the outputs .* got \['layer_7'\]"):
        forgotten(model, layers=("layer_7",))


def test_a_task_of_pairs_is_asked_about_pairs_and_its_layers_are_those_of_nodes(model, monkeypatch):
    """Not computed, but for what both say of the plain network."""
    asked, outputs_of = [], room.node_outputs

    def spy(task, variables, everyone, layers=None):
        asked.append(everyone["inputs"].shape)
        return outputs_of(task, variables, everyone, layers)

    monkeypatch.setattr(room, "node_outputs", spy)
    module = models.GCN(networks.C, hidden=(4,), dropout=0.0)
    task = tasks.link_prediction(tasks.from_linen(module, ("graph",)), GRAPH)
    method = unlearning.enforce(unlearning.gnn_delete(optax.sgd(0.1), num_steps=1))
    request = Request({"inputs": networks.EDGES[[4]]}, edited={"graph": CUT})
    update = lambda model: method.update(jax.random.key(0), task, model, (), request)[0]
    matrices = jax.eval_shape(update, model)["params"]
    assert set(asked) == {(networks.N, 2)}
    assert {name: w.shape for name, w in matrices.items()} == {"layer_0": (4, 4), "layer_1": (3, 3)}
    of_pairs = outputs_of(task, model, {"inputs": np.stack([networks.ALL] * 2, axis=1)})
    of_nodes = outputs_of(TASK, model, NODES)
    problems.assert_trees_equal(of_pairs, of_nodes)
