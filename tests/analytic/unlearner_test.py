import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import problems
from unlearnjax import analytic, training, unlearning
from unlearnjax.types import Request


@pytest.fixture(scope="module")
def problem():
    digits = {k: jnp.asarray(v) for k, v in problems.digits(900).items()}
    train, test = ({k: v[s] for k, v in digits.items()} for s in (slice(700), slice(700, 900)))
    task = problems.mlp()
    return task, problems.init(task, train), train, test


@pytest.mark.parametrize("form", sorted(analytic.FORMS))
@pytest.mark.parametrize("backbone", ["inputs", "model"])
def test_the_served_head_is_the_one_of_the_retained_rows(problem, form, backbone):
    """Same key, same projection: deploying on the retain set alone is the oracle."""
    task, variables, train, test = problem
    method = unlearning.enforce(unlearning.acu(256, gamma=10.0, form=form, backbone=backbone))
    mask = np.asarray(train["targets"] == 3)
    forget, retain = ({k: v[m] for k, v in train.items()} for m in (mask, ~mask))
    init = jax.jit(lambda data: method.init(jax.random.key(0), task, variables, data))
    deployed, memory = init(train)
    oracle, _ = init(retain)
    update = jax.jit(lambda v, m: method.update(None, task, v, m, Request(forget)))
    unlearned, memory = update(deployed, memory)
    assert bool(memory.possible) and memory.state.weight.dtype == jnp.float64
    head, expected = unlearned["params"]["head"], oracle["params"]["head"]
    np.testing.assert_allclose(head, expected, atol=2e-6 * np.abs(expected).max())
    assert np.abs(head - deployed["params"]["head"]).max() > 1e-2
    served = method.serve(task)
    outputs = [training.evaluate(served, v, test)["accuracy"] for v in (unlearned, oracle)]
    np.testing.assert_array_equal(*outputs)
    if backbone == "inputs":
        assert outputs[0][np.asarray(test["targets"]) != 3].mean() > 0.9


@pytest.mark.parametrize(("options", "scale"), [({}, 10.0), ({"scale": 3.0}, 3.0)])
def test_logits_are_the_scaled_predictions_of_ridge_regression(problem, options, scale):
    task, variables, train, _ = problem
    train = {k: v[:90] for k, v in train.items()}
    method = unlearning.acu(32, gamma=2.0, **options)
    deployed, _ = method.init(jax.random.key(0), task, variables, train)
    params = jax.tree.map(np.float64, deployed["params"])
    features = np.maximum(np.float64(train["inputs"]).reshape(90, 64) @ params["projection"], 0)
    targets = np.eye(10)[np.asarray(train["targets"])]
    gram = features.T @ features + 2.0 * np.eye(32)
    expected = scale * np.linalg.solve(gram, features.T @ targets)
    np.testing.assert_allclose(params["head"], expected, rtol=0, atol=1e-5)


def test_requests_follow_one_another_and_impossible_ones_are_told(problem):
    task, variables, train, _ = problem
    method = unlearning.acu(800, gamma=1e-3)  # more features than rows: all rows are told apart
    deployed, memory = method.init(jax.random.key(0), task, variables, train)
    parts = [
        {k: v[s] for k, v in train.items()} for s in (slice(20), slice(20, 50), slice(50, None))
    ]
    for part in parts[:2]:
        deployed, memory = method.update(None, task, deployed, memory, Request(part))
    oracle, _ = method.init(jax.random.key(0), task, variables, parts[2])
    np.testing.assert_allclose(
        deployed["params"]["head"], oracle["params"]["head"], rtol=0, atol=1e-3
    )
    assert bool(memory.possible)
    again, memory = method.update(None, task, deployed, memory, Request(parts[0]))
    assert not bool(memory.possible)
    np.testing.assert_array_equal(again["params"]["head"], deployed["params"]["head"])


def test_none_or_all_may_be_forgotten(problem):
    task, variables, train, _ = problem
    train = {k: v[:90] for k, v in train.items()}
    method = unlearning.acu(64)
    deployed, memory = method.init(jax.random.key(0), task, variables, train)
    nothing = {k: v[:0] for k, v in train.items()}
    same, memory = method.update(None, task, deployed, memory, Request(nothing))
    np.testing.assert_allclose(same["params"]["head"], deployed["params"]["head"], rtol=1e-6)
    blank, memory = method.update(None, task, deployed, memory, Request(train))
    assert bool(memory.possible)
    assert np.abs(blank["params"]["head"]).max() < 1e-9


def test_it_keeps_no_row_of_data(problem):
    """What is remembered does not grow with the data."""
    task, variables, train, _ = problem
    method = unlearning.acu(64)
    sizes = set()
    for n in (100, 700):
        part = {k: v[:n] for k, v in train.items()}
        _, memory = method.init(jax.random.key(0), task, variables, part)
        sizes.add(sum(x.nbytes for x in jax.tree.leaves(memory)))
    assert len(sizes) == 1


def test_a_head_is_not_trained_and_bad_values_are_named(problem):
    task, _, train, _ = problem
    with pytest.raises(ValueError, match="is served, not trained"):
        unlearning.acu().serve(task).apply({}, train, None, True)
    for options, message in (
        ({"gamma": 0.0}, "gamma must be > 0"),
        ({"form": "qr"}, "form must be one of"),
        ({"backbone": "resnet"}, "backbone must be one of"),
        ({"num_features": 0}, "num_features must be >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            unlearning.acu(**options)
