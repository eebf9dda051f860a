import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from tests import networks
from unlearnjax import training, unlearning
from unlearnjax.data import graphs
from unlearnjax.types import Request
from unlearnjax.unlearning.graph import d2dgn as room
from unlearnjax.unlearning.graph.d2dgn import without_forgotten

GRAPH = jax.tree.map(jnp.asarray, networks.small())
TASK, DATA = networks.task(), networks.data()
APPLY = jax.jit(TASK.apply, static_argnums=3)


def part(rows):
    return {name: value[rows] for name, value in DATA.items()}


@pytest.fixture(scope="module")
def model():
    start = {"graph": GRAPH}
    variables = training.init_variables(TASK, DATA, jax.random.key(3), start)
    return {**variables, "params": jax.tree.map(lambda x: 2 * x, variables["params"])}


def probs(model, rows):
    logits = APPLY(model, DATA, None, False)[0]["logits"]
    return np.asarray(jax.nn.softmax(logits), np.float64)[rows]


@functools.partial(jax.jit, static_argnames=("form", "num_epochs"))
def update(model, request, alpha, form="response", num_epochs=150):
    options = {"alpha": alpha, "form": form, "num_epochs": num_epochs, "batch_size": 12}
    method = unlearning.enforce(unlearning.d2dgn(optax.adam(0.03), **options))
    memory = ((), ())  # of the links of a chain
    return method.update(jax.random.key(1), TASK, model, memory, request)[0]


FORGET, RETAIN = np.array([2, 7]), np.setdiff1d(networks.ALL, [2, 7])


def test_the_student_becomes_the_preserver_on_what_stays_and_the_destroyer_on_what_goes(model):
    request = Request(part(FORGET), part(RETAIN), edited={"graph": GRAPH})
    kept = update(model, request, 1.0)
    assert np.abs(probs(kept, RETAIN) - probs(model, RETAIN)).mean() < 0.03
    # The destroyer is the fresh model of the key that `descend` gives its second teacher.
    gone = update(model, request, 0.0)
    second = jax.random.split(jax.random.key(1), 2)[1]
    key = jax.random.split(jax.random.split(second, 4)[1], 2)[1]
    novice = jax.jit(unlearning.incompetent_model, static_argnums=1)
    destroyer = novice(key, TASK, model, request)
    assert np.abs(probs(gone, FORGET) - probs(destroyer, FORGET)).mean() < 0.02
    assert np.abs(probs(destroyer, FORGET) - probs(model, FORGET)).mean() > 0.1
    assert np.abs(probs(destroyer, RETAIN) - probs(model, RETAIN)).mean() > 0.1


def test_layers_are_matched_in_the_feature_form(model):
    request = Request(part(FORGET), part(RETAIN), edited={"graph": GRAPH})
    kept = update(model, request, 1.0, form="feature", num_epochs=300)
    for name in ("layer_0", "layer_1"):
        own, other = (APPLY(m, DATA, None, False)[0][name][RETAIN] for m in (kept, model))
        assert float(((own - other) ** 2).mean()) < 0.1 * float((other**2).mean())


def test_the_distance_of_layers_is_summed_over_them():
    rng = np.random.default_rng(0)
    own, other = (
        {f"layer_{i}": rng.normal(size=(3, 2, 4 - i)) for i in range(2)} | {"logits": 0}
        for _ in range(2)
    )
    each = [((own[k] - other[k]) ** 2).sum((1, 2)) for k in ("layer_0", "layer_1")]
    term = unlearning.layer_distance("original")
    found = term(None, own, None, {"original": other})
    np.testing.assert_allclose(found, each[0] + each[1])
    last = unlearning.layer_distance("original", ("layer_1",))
    np.testing.assert_allclose(last(None, own, None, {"original": other}), each[1])
    with pytest.raises(ValueError, match="the model must return 'layer_0'"):
        term(None, {"logits": 0}, None, {"original": other})


def test_examples_that_stay_are_the_destroyers_alone():
    found = without_forgotten(Request(part(FORGET), DATA))
    assert np.flatnonzero(found["weight"] == 0).tolist() == FORGET.tolist()
    halved = {**DATA, "weight": np.full(networks.N, 0.5, np.float32)}
    found = without_forgotten(Request(part(FORGET), halved))
    assert found["weight"].sum() == 5.0


def test_the_edit_alone_changes_the_graph_alone(model):
    cut = graphs.without_nodes(GRAPH, graphs.node_rows(GRAPH, [2]))
    method = unlearning.enforce(unlearning.edit_only())
    after, _ = method.update(None, TASK, model, (), Request(None, edited={"graph": cut}))
    assert after["params"] is model["params"] and after["graph"] is cut and not method.needs


def test_bad_values_are_refused():
    for options, why in (
        ({"alpha": -0.1}, r"alpha must lie in \[0, 1\]"),
        ({"form": "both"}, "form must be one of"),
        ({"layers": "layer_0"}, "layers must be several names"),
    ):
        with pytest.raises(ValueError, match=why):
            unlearning.d2dgn(optax.sgd(0.1), **options)


@pytest.mark.parametrize("form", ["response", "feature"])
def test_each_part_has_a_teacher_and_a_share(form, monkeypatch):
    """Of a model whose outputs are its parameter times the inputs, twice as large in training."""
    seen = {}

    def descend(objective, tx, **options):
        seen.update(options, objective=objective)
        return unlearning.edit_only()

    monkeypatch.setattr(room, "descend", descend)
    unlearning.d2dgn(optax.sgd(0.1), alpha=0.3, form=form, num_epochs=7, batch_size=5)
    assert (seen["num_epochs"], seen["batch_size"], seen["over"]) == (7, 5, "union")
    assert not seen["labels"]

    def apply(variables, batch, rng, train):
        said = (1 + train) * variables["params"] * batch["inputs"]
        return {"logits": said, "layer_0": said}, variables

    task = TASK._replace(apply=apply)
    x = np.array([[1.0, -1.0, 0.5], [2.0, 0.0, 0.3], [-1.0, 1.5, 0.0]], np.float32)
    batch = {"inputs": x, "part": jnp.array([0, 1, 1]), "weight": jnp.ones(3)}
    scales = {"incompetent": -1.0, "original": 0.5, "student": 2 * 0.7}
    models = {name: {"params": jnp.asarray(scale)} for name, scale in scales.items()}
    loss_fn = seen["objective"](task, {k: models[k] for k in seen["teachers"]})
    losses, _ = loss_fn({"params": jnp.asarray(0.7)}, batch, jax.random.key(0))
    if form == "response":
        probs = {name: scipy.special.softmax(scale * x, axis=1) for name, scale in scales.items()}
        apart = lambda name: scipy.stats.entropy(probs[name], probs["student"], axis=1)
    else:
        apart = lambda name: ((scales[name] - scales["student"]) ** 2 * x**2).sum(1)
    expected = 0.7 * apart("incompetent")[0] + 0.3 * apart("original")[1:].mean()
    assert float(losses.mean()) == pytest.approx(expected, rel=1e-5)
