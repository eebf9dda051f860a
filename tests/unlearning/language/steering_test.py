"""RMU against the closed form of its gradient in the hidden states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning import linear
from tests.unlearning.language import toy
from unlearnjax import tasks, unlearning
from unlearnjax.unlearning.language import steering

SGD = optax.sgd(1.0)
REQUEST, GIVEN = toy.problem()
CAPTURED = tasks.capture(toy.TASK, ("block_0",))
NAME = "hidden.block_0"


@pytest.fixture(autouse=True)
def one_step_on_all_rows(monkeypatch):
    monkeypatch.setattr(steering, "descend", toy.whole_step)


def hidden(model, data):
    outputs, _ = jax.jit(lambda m, d: CAPTURED.apply(m, d, None, False))(model, data)
    return np.asarray(outputs[NAME], np.float64)


def pulled(data, target):
    """The gradient of the mean over answers and their tokens of `|h_t - target|^2 / D`."""
    answer = np.asarray(data["answer"], np.float64)
    share = answer / answer.sum(-1, keepdims=True) / len(answer)
    cotangent = 2 * (hidden(GIVEN, data) - target) * share[..., None] / toy.WIDTH

    @jax.jit
    def pull(params):
        output = lambda p: CAPTURED.apply({"params": p}, data, None, False)[0][NAME]
        return jax.vjp(output, params)[1](jnp.asarray(cotangent, jnp.float32))[0]

    return pull(GIVEN["params"])


def drawn(scale):
    key, _ = jax.random.split(jax.random.key(0))
    return scale * np.asarray(steering.direction(key, toy.WIDTH))


def test_states_go_to_one_direction_and_stay_at_the_originals_elsewhere():
    method = unlearning.rmu(
        SGD,
        layer="block_0",
        where=["block_0.down"],
        scale=2.0,
        retain_weight=0.4,
    )
    assert method.needs == {"forget", "retain", "inputs", "labels"}
    expected = toy.added(
        pulled(REQUEST.forget, drawn(2.0)),
        toy.scaled(0.4, pulled(REQUEST.retain, hidden(REQUEST.original, REQUEST.retain))),
    )
    found = toy.slope(method, REQUEST, GIVEN)
    np.testing.assert_allclose(
        found["block_0"]["down"], expected["block_0"]["down"], rtol=1e-4, atol=1e-6
    )
    del found["block_0"]["down"]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found))


def test_all_parameters_move_unless_some_are_named():
    method = unlearning.rmu(SGD, layer="block_0")
    expected = toy.added(
        pulled(REQUEST.forget, drawn(6.5)),
        toy.scaled(1200, pulled(REQUEST.retain, hidden(REQUEST.original, REQUEST.retain))),
    )
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


def test_the_direction_is_of_norm_one_and_uniform_before():
    found = np.asarray(steering.direction(jax.random.key(0), 2000))
    np.testing.assert_allclose(np.linalg.norm(found), 1, rtol=1e-5)
    # A uniform entry has the mean 1/2 and the mean square 1/3.
    np.testing.assert_allclose(found.mean() * np.sqrt(2000), np.sqrt(3) / 2, rtol=0.03)
    assert (found >= 0).all() and not np.array_equal(
        found, steering.direction(jax.random.key(1), 2000)
    )


def test_nothing_is_left_to_do_where_the_states_are_there():
    target = jnp.arange(3.0)
    term = steering.steered("block_0", target)
    outputs = {NAME: jnp.tile(target, (2, 4, 1)).at[1, 3].add(1.0)}
    batch = {"answer": jnp.ones((2, 4)).at[1, 3].set(0)}
    np.testing.assert_array_equal(term(None, outputs, batch, {}), [0, 0])
    assert float(term(None, outputs, {"answer": jnp.ones((2, 4))}, {})[1]) == 1 / 4


def test_a_classifiers_states_have_no_answer():
    request, given, _ = linear.problem()

    def apply(variables, batch, rng, train):
        del rng, train
        return {"logits": tasks.tap("out", batch["inputs"] @ variables["params"]["w"])}, variables

    task = tasks.classification(tasks.Model(None, apply))
    method = unlearning.rmu(SGD, layer="out", scale=2.0, retain_weight=1.0)
    key, _ = jax.random.split(jax.random.key(0))
    x = np.asarray(request.forget["inputs"], np.float64)
    error = x @ linear.weights(given) - 2.0 * np.asarray(steering.direction(key, linear.CLASSES))
    expected = 2 * x.T @ error / error.size  # at the original, nothing pulls on the retain set
    found = toy.slope(method, request, given, task)
    np.testing.assert_allclose(found["w"], expected, atol=1e-5)


def test_a_classifiers_layer_may_have_places_and_tokens_must_have_answers():
    target = jnp.arange(3.0)
    outputs = {NAME: jnp.tile(target, (2, 2, 2, 1)).at[1, 0, 1].add(2.0)}  # an image's
    term = steering.steered("block_0", target)
    np.testing.assert_array_equal(term(None, outputs, {"targets": jnp.zeros(2, int)}, {}), [0, 1])
    real = {"targets": jnp.zeros((2, 5))}  # of a regression
    np.testing.assert_array_equal(term(None, outputs, real, {}), [0, 1])
    with pytest.raises(ValueError, match="batch must have the column 'answer'"):
        term(None, outputs, {"targets": jnp.zeros((2, 4), int)}, {})


def test_adapters_come_back_as_adapters():
    adapted = tasks.lora(toy.TASK, 2, ["block_0.down"])
    start = tasks.as_base(GIVEN)
    variables = {**start, **adapted.init(jax.random.key(0), REQUEST.forget)}
    method = unlearning.rmu(SGD, layer="block_0")
    request = REQUEST._replace(original=variables)
    found, _ = jax.jit(lambda v: method.update(jax.random.key(0), adapted, v, (), request))(
        variables
    )
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    problems.assert_trees_equal(found["base"], variables["base"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": "block_7"}, r"where must name layers that the model runs, among \['block_0'\]"),
        ({"layer": "block_0", "where": ["block_0.up", "block_1"]}, "where must be among .*block_0"),
    ],
)
def test_unknown_layers_and_parameters_are_listed(options, message):
    method = unlearning.rmu(SGD, **options)
    with pytest.raises(ValueError, match=message):
        method.update(jax.random.key(0), toy.TASK, GIVEN, (), REQUEST)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"layer": ""}, "layer must be one name"),
        ({"layer": "a", "where": "a"}, "where must be several names"),
        ({"layer": "a", "scale": 0.0}, "scale must be > 0"),
        ({"layer": "a", "scale": np.inf}, "scale must be finite"),
        ({"layer": "a", "retain_weight": -1.0}, "retain_weight must be >= 0"),
        ({"layer": "a", "retain_weight": np.inf}, "retain_weight must be finite"),
        ({"layer": "a", "num_steps": 0}, "num_steps must be >= 1"),
    ],
)
def test_bad_values_are_named_at_construction(options, message, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match=message):
        unlearning.rmu(SGD, **options)
