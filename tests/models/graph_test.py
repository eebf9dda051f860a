import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from tests import networks, problems
from unlearnjax import models
from unlearnjax.data import graphs
from unlearnjax.models import graph as layers

GRAPH = networks.small()
MODULES = {
    "gcn": models.GCN(networks.C, hidden=(4,)),
    "gat": models.GAT(networks.C, hidden=(2,), num_heads=2),
    "gin": models.GIN(networks.C, hidden=(4,), eps=0.3),
    "sgc": models.SGC(networks.C),
}


@pytest.fixture(scope="module", params=MODULES)
def net(request):
    """A module with drawn parameters, biases too, as a compiled function of a graph."""
    module = MODULES[request.param]
    shapes = module.init(jax.random.key(0), GRAPH)
    leaves, treedef = jax.tree.flatten(shapes)
    rng = np.random.default_rng(1)
    variables = treedef.unflatten([rng.normal(size=x.shape).astype(np.float32) for x in leaves])
    apply = jax.jit(lambda graph: module.apply(variables, graph))
    return request.param, jax.tree.map(np.float64, variables["params"]), apply


def attention(edges, own, source, target):
    """Dense `[N, N, H]`: rows sum to one over neighbours and the node itself."""
    e = (own * target).sum(-1)[:, None] + (own * source).sum(-1)[None]
    e = np.where(e > 0, e, 0.2 * e)
    there = (networks.adjacency(edges, len(own)) + np.eye(len(own)))[..., None]
    weights = np.exp(e) * there
    return weights / weights.sum(1, keepdims=True)


def dense(name, params, edges, x):
    """The published formulas in NumPy."""
    number = len(x)
    if name in ("gcn", "sgc"):
        a = networks.normalised(edges, number)
    if name == "sgc":
        return [a @ a @ x @ params["layer_0"]["kernel"] + params["bias"]]
    outputs = []
    for i in range(2):
        p = params[f"layer_{i}"]
        if name == "gcn":
            h = a @ x @ p["Linear_0"]["kernel"] + p["bias"]
        elif name == "gin":
            summed = 1.3 * x + networks.adjacency(edges, number) @ x
            hidden = np.maximum(summed @ p["Linear_0"]["kernel"] + p["bias"], 0)
            h = hidden @ p["Linear_1"]["kernel"] + p["Linear_1"]["bias"]
        else:
            own = (x @ p["Linear_0"]["kernel"]).reshape(number, *p["source"].shape)
            weights = attention(edges, own, p["source"], p["target"])
            h = np.einsum("ijh,jhd->ihd", weights, own).reshape(number, -1) + p["bias"]
        outputs.append(h)
        x = np.maximum(h, 0) if name != "gat" else np.where(h > 0, h, np.expm1(h))
    return outputs


def test_layers_are_the_published_formulas(net):
    name, params, apply = net
    outputs = apply(GRAPH)
    expected = dense(name, params, networks.EDGES, networks.features().astype(np.float64))
    for i, layer in enumerate(expected):
        np.testing.assert_allclose(
            outputs[f"layer_{i}"] if name != "sgc" else outputs["logits"],
            layer,
            rtol=2e-5,
            atol=2e-5,
        )
    np.testing.assert_array_equal(outputs["logits"], outputs[f"layer_{len(expected) - 1}"])
    if name == "gcn":
        np.testing.assert_allclose(outputs["features"], np.maximum(expected[0], 0), atol=2e-5)


def test_the_order_of_nodes_does_not_matter(net):
    _, _, apply = net
    order = np.random.default_rng(2).permutation(networks.N)  # old id of every new one
    place = np.argsort(order)
    permuted = graphs.graph(networks.features()[order], place[networks.EDGES])
    np.testing.assert_allclose(
        apply(permuted)["logits"], apply(GRAPH)["logits"][order], rtol=1e-5, atol=1e-5
    )


def test_deleting_edges_is_building_the_graph_without_them(net):
    _, _, apply = net
    gone = graphs.edge_rows(GRAPH, networks.EDGES[[1, 5, 9]])
    masked = graphs.without_edges(GRAPH, gone)
    kept = np.delete(networks.EDGES, [1, 5, 9], axis=0)
    built = graphs.graph(networks.features(), kept)
    # Padded to the same shapes by masked edges, which change nothing, bit for bit.
    order = [*np.flatnonzero(~gone), *np.flatnonzero(gone)]
    for name in ("senders", "receivers"):
        np.testing.assert_array_equal(masked[name][np.array(order)][: 2 * len(kept)], built[name])
    np.testing.assert_allclose(
        apply(masked)["logits"], jax.jit(apply)(built)["logits"], rtol=1e-6, atol=1e-6
    )
    anywhere = {**masked, **{n: jnp.where(gone, 7, masked[n]) for n in ("senders", "receivers")}}
    np.testing.assert_array_equal(apply(anywhere)["logits"], apply(masked)["logits"])


def test_a_deleted_node_reaches_nobody_and_the_others_are_as_in_the_graph_without_it(net):
    _, _, apply = net
    gone = graphs.node_rows(GRAPH, [8, 1])
    masked = graphs.without_nodes(GRAPH, gone)
    kept = networks.ALL[~gone]
    number = np.cumsum(~gone) - 1
    edges = networks.EDGES[~gone[networks.EDGES].any(1)]
    built = graphs.graph(networks.features()[kept], number[edges])
    np.testing.assert_allclose(
        apply(masked)["logits"][kept], apply(built)["logits"], rtol=1e-6, atol=1e-6
    )

    def others(nodes):
        outputs = apply(graphs.without_nodes({**GRAPH, "nodes": nodes}, gone))
        return outputs["logits"][kept].sum()

    slope = jax.grad(others)(jnp.asarray(GRAPH["nodes"]))
    np.testing.assert_array_equal(slope[gone], np.zeros((2, networks.D)))
    assert (jnp.abs(slope[kept]).sum(1) > 0).sum() > 6  # but for units that are off


def test_an_isolated_node_depends_on_itself_alone(net):
    _, _, apply = net
    slope = jax.jacobian(lambda nodes: apply({**GRAPH, "nodes": nodes})["logits"][10].sum())(
        jnp.asarray(GRAPH["nodes"])
    )
    assert set(np.flatnonzero(np.abs(slope).sum(1))) == {10}


def test_words_are_the_features_that_they_stand_for(net):
    name, params, apply = net
    x = networks.features() * (np.random.default_rng(3).random((networks.N, networks.D)) < 0.4)
    words = graphs.graph(scipy.sparse.csr_matrix(x), networks.EDGES)
    assert words["nodes"]["ids"].shape[1] == (x != 0).sum(1).max() < networks.D
    plain = graphs.graph(x, networks.EDGES)
    np.testing.assert_allclose(apply(words)["logits"], apply(plain)["logits"], rtol=1e-5, atol=1e-5)
    # A word that is not known is not read.
    known = words["nodes"]["known"] & (np.arange(networks.D) != 2)
    fewer = {**words, "nodes": {**words["nodes"], "known": known}}
    x[:, 2] = 0
    plain = graphs.graph(x, networks.EDGES)
    np.testing.assert_allclose(apply(fewer)["logits"], apply(plain)["logits"], rtol=1e-5, atol=1e-5)
    cut = graphs.without_features(words, graphs.node_rows(words, [3]))
    assert not cut["nodes"]["values"][3].any() and not cut["nodes"]["ids"][3].any()
    x[3], known = 0, words["nodes"]["known"]
    cut = {**cut, "nodes": {**cut["nodes"], "known": fewer["nodes"]["known"]}}
    plain = graphs.graph(x, networks.EDGES)
    np.testing.assert_allclose(apply(cut)["logits"], apply(plain)["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("in_turns", [True, False])
def test_rows_are_summed_by_what_words_count(in_turns):
    rng = np.random.default_rng(0)
    ids, values = rng.integers(5, size=(4, 3)), rng.normal(size=(4, 3)).astype(np.float32)
    kernel = rng.normal(size=(5, 2)).astype(np.float32)
    dense = np.zeros((4, 5), np.float32)
    np.add.at(dense, (np.arange(4)[:, None], ids), values)
    g = rng.normal(size=(4, 2)).astype(np.float32)

    @jax.jit
    def run(kernel, values):
        of_kernel = lambda kernel: layers.sum_of_rows(ids, values, kernel, in_turns=in_turns)
        out, pull = jax.vjp(of_kernel, kernel)
        return out, pull(g.astype(out.dtype))[0]

    out, slope = run(kernel, values)
    np.testing.assert_allclose(out, dense @ kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slope, dense.T @ g, rtol=1e-5, atol=1e-6)
    assert jax.eval_shape(run, jnp.bfloat16(kernel), jnp.bfloat16(values))[0].dtype == jnp.bfloat16


def test_nothing_on_the_way_is_larger_than_messages_along_edges(net):
    _, _, apply = net
    sizes = [int(np.prod(shape)) for shape in problems.shapes(apply, GRAPH)]
    assert max(sizes) <= 4 * len(GRAPH["senders"]) < networks.N**2


def test_the_convolution_is_scipys_sparse_product():
    x = np.random.default_rng(5).normal(size=(networks.N, 3)).astype(np.float32)
    matrix = scipy.sparse.csr_matrix(networks.normalised(networks.EDGES))
    np.testing.assert_allclose(layers.normalised_sum(GRAPH, x), matrix @ x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODULES)
def test_training_drops_features_and_bfloat16_stays(name):
    module = MODULES[name]
    variables = module.init(jax.random.key(0), GRAPH)
    run = lambda key: module.apply(variables, GRAPH, train=True, rngs={"dropout": key})["logits"]
    one, other = run(jax.random.key(1)), run(jax.random.key(2))
    assert (name == "sgc") == bool(jnp.array_equal(one, other))
    half = module.clone(dtype=jnp.bfloat16, out=6).apply
    half = jax.eval_shape(
        lambda: half(module.clone(out=6).init(jax.random.key(0), GRAPH), GRAPH)["logits"]
    )
    assert half.shape == (networks.N, 6) and half.dtype == jnp.bfloat16


def test_attention_is_dropped_in_training_and_the_rest_scaled():
    """Of equal nodes of ones: a mean over neighbours, of which each is kept doubled or dropped."""
    layer = layers.GATLayer(1, dropout=0.5)
    ones = {"Linear_0": {"kernel": jnp.full((1, 1), 1.0)}, "bias": jnp.zeros(1)}
    params = {**ones, "source": jnp.ones((1, 1)), "target": jnp.ones((1, 1))}
    run = lambda train: np.asarray(
        layer.apply(
            {"params": params},
            jnp.ones((networks.N, 1)),
            GRAPH,
            train,
            rngs={"dropout": jax.random.key(0)},
        )
    )[:, 0]
    np.testing.assert_allclose(run(False), 1, rtol=1e-6)
    degree = 1 + networks.adjacency(networks.EDGES).sum(1)
    kept = run(True) * degree / 2
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-5)
    assert (kept > 0.5).any() and (kept < degree - 0.5).any() and len(set(kept.round())) > 2


def test_defaults_are_the_papers():
    gcn, gat, gin = (net(networks.C) for net in (models.GCN, models.GAT, models.GIN))
    assert (gcn.hidden, gcn.dropout) == ((16,), 0.5) == (gin.hidden, gin.dropout)
    assert (gat.hidden, gat.num_heads, gat.dropout) == ((8,), 8, 0.6)
