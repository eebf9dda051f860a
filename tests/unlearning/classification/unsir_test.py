import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tests import problems
from unlearnjax import unlearning
from unlearnjax.types import Request

unsir = importlib.import_module("unlearnjax.unlearning.classification.unsir")


@pytest.fixture(scope="module")
def problem():
    """Softmax regression of 5 classes on 4 features; the retain set lacks two of them."""
    rng = np.random.default_rng(0)

    def apply(variables, batch, key, train):
        assert train and key is not None
        return {"logits": batch["inputs"] @ variables["params"]}, variables

    task = problems.softmax_regression()._replace(apply=apply)
    retain = {
        "inputs": jnp.asarray(rng.normal(size=(12, 4)), jnp.float32),
        "targets": jnp.asarray([0, 2, 4] * 4, jnp.int32),
        "index": jnp.arange(12),
    }
    return task, {"params": jnp.asarray(rng.normal(size=(4, 5)), jnp.float32)}, retain


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    """Shapes are asked for in evaluation mode, which the task of the problem refuses."""
    shape = {"logits": jax.ShapeDtypeStruct((1, 5), jnp.float32)}
    monkeypatch.setattr(unsir.training, "output_shapes", lambda *args: shape)


def noise(problem, rng=None, retain=None, **options):
    task, variables, given = problem
    options = {"num_noise": 5, "num_steps": 1, "learning_rate": 0.1, "decay": 0.1, **options}
    rng = jax.random.key(0) if rng is None else rng
    return unsir.error_maximising_noise(rng, task, variables, retain or given, **options)


@pytest.mark.parametrize(
    ("present", "expected"),
    [((0, 2, 4), [1, 3, 1, 3, 1]), ((0, 1, 2, 3), [4] * 5), ((2,), [0, 1, 3, 4, 0])],
)
def test_labels_are_the_absent_classes_in_turn(problem, present, expected):
    """Which are absent is known only when a compiled request runs."""
    _, _, retain = problem

    @jax.jit
    def made(targets):
        return noise(problem, retain={**retain, "targets": targets})

    result = made(jnp.asarray(np.resize(present, 12), jnp.int32))
    np.testing.assert_array_equal(result["targets"], expected)
    np.testing.assert_array_equal(result["weight"], 1.0)
    assert result["inputs"].shape == (5, 4) and result["targets"].dtype == jnp.int32


def test_noise_counts_for_nothing_where_no_class_is_absent(problem):
    retain = {**problem[2], "targets": jnp.asarray(np.resize(range(5), 12))}
    np.testing.assert_array_equal(noise(problem, retain=retain)["weight"], 0.0)


def test_a_class_whose_examples_weigh_nothing_is_absent(problem):
    retain = {**problem[2], "weight": (problem[2]["targets"] != 2).astype(jnp.float32)}
    np.testing.assert_array_equal(noise(problem, retain=retain)["targets"], [1, 2, 3, 1, 2])


def test_noise_is_that_of_adam_on_decay_less_loss(problem):
    """NumPy: gradient `2 decay x - (softmax - onehot) W'` over M, Adam's moments by hand."""
    steps, rate, decay = 6, 0.2, 0.3
    result = noise(problem, num_steps=steps, learning_rate=rate, decay=decay)
    weights = np.asarray(problem[1]["params"], np.float64)
    x = np.asarray(jax.random.normal(jax.random.split(jax.random.key(0))[0], (5, 4)), np.float64)
    one_hot = np.eye(5)[[1, 3, 1, 3, 1]]
    first = second = 0.0
    for t in range(1, steps + 1):
        away = (scipy.special.softmax(x @ weights, axis=1) - one_hot) @ weights.T
        gradient = (2 * decay * x - away) / 5
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scale = np.sqrt(second / (1 - 0.999**t)) + 1e-8
        x = x - rate * first / (1 - 0.9**t) / scale
    np.testing.assert_allclose(result["inputs"], x, rtol=1e-3, atol=1e-4)


def step(params, inputs, targets, rate):
    """One step of gradient descent on the mean cross-entropy, by NumPy."""
    error = scipy.special.softmax(inputs @ params, axis=1) - np.eye(5)[targets]
    return params - rate * inputs.T @ error / len(inputs)


@pytest.mark.parametrize("repair_tx", [None, optax.sgd(0.7)])
def test_one_epoch_on_noise_and_share_then_one_on_the_share(problem, repair_tx):
    """Full batches: every example weighs alike, each noise `repeats` times; half the rate after."""
    task, variables, retain = problem
    rng = jax.random.key(2)
    options = {"num_noise": 5, "repeats": 3, "noise_steps": 4, "noise_decay": 0.2}
    method = unlearning.unsir(
        optax.sgd(0.4), repair_tx=repair_tx, batch_size=100, retain_fraction=1.0, **options
    )
    assert method.needs == {"retain", "inputs", "labels"}
    updated, memory = method.update(rng, task, variables, (), Request(None, retain))
    learned = noise(problem, jax.random.split(rng, 4)[0], num_steps=4, decay=0.2)
    x, y = (
        np.asarray(retain[k], np.float64 if k == "inputs" else int) for k in ("inputs", "targets")
    )
    mixed = np.concatenate([np.asarray(learned["inputs"])] * 3 + [x])
    labels = np.concatenate([np.asarray(learned["targets"])] * 3 + [y])
    expected = step(np.asarray(variables["params"], np.float64), mixed, labels, 0.4)
    expected = step(expected, x, y, 0.2 if repair_tx is None else 0.7)
    np.testing.assert_allclose(updated["params"], expected, rtol=1e-4, atol=1e-5)
    assert memory == ()


def test_a_transformation_made_at_the_request_is_halved_to_repair(problem):
    task, variables, retain = problem
    options = {"num_noise": 5, "repeats": 1, "noise_steps": 1, "batch_size": 100}
    fixed, made = (
        unlearning.unsir(tx, **options).update(
            jax.random.key(0), task, variables, (), Request(None, retain)
        )[0]
        for tx in (optax.sgd(0.4), lambda rng, task, variables, request: optax.sgd(0.4))
    )
    problems.assert_trees_equal(made, fixed)


def test_the_same_share_of_the_retain_set_impairs_and_repairs(problem, monkeypatch):
    task, variables, retain = problem
    seen = []

    def recording(objective, tx, **options):
        def update(rng, task, variables, memory, request):
            seen.append((options, request))
            return variables, memory

        return unlearning.descend(objective, tx, **options)._replace(update=update)

    monkeypatch.setattr(unsir, "descend", recording)
    options = {"num_noise": 3, "repeats": 2, "noise_steps": 1, "batch_size": 7}
    method = unlearning.unsir(optax.sgd(0.1), retain_fraction=0.25, **options)
    shares = []
    for seed in (0, 1):
        method.update(jax.random.key(seed), task, variables, (), Request(None, retain))
        (impair, first), (repair, second) = seen[-2:]
        assert impair == {"over": "union", "num_epochs": 1, "batch_size": 7}
        assert repair == {"over": "retain", "num_epochs": 1, "batch_size": 7}
        assert first.forget["inputs"].shape == (6, 4)
        np.testing.assert_array_equal(first.forget["targets"], [1, 3, 1, 1, 3, 1])
        problems.assert_trees_equal(first.retain, second.retain)
        shares.append(set(np.asarray(first.retain["index"]).tolist()))
        assert len(shares[-1]) == 3
        np.testing.assert_array_equal(first.retain["weight"], 1.0)
    assert shares[0] != shares[1]


def test_defaults_are_the_authors():
    parameters = inspect.signature(unlearning.unsir).parameters.values()
    assert {p.name: p.default for p in parameters if p.name != "tx"} == {
        "repair_tx": None,
        "num_noise": 256,
        "repeats": 20,
        "noise_steps": 40,
        "noise_learning_rate": 0.1,
        "noise_decay": 0.1,
        "batch_size": 256,
        "retain_fraction": 0.2,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_noise": 0}, "num_noise must be >= 1"),
        ({"repeats": 0}, "repeats must be >= 1"),
        ({"noise_steps": 0}, "noise_steps must be >= 1"),
        ({"noise_decay": -0.1}, "noise_decay must be >= 0"),
        ({"noise_learning_rate": 0.0}, "noise_learning_rate must be > 0"),
        ({"retain_fraction": 0.0}, r"retain_fraction must lie in \(0, 1\], got 0.0"),
        ({"retain_fraction": 1.5}, r"retain_fraction must lie in \(0, 1\], got 1.5"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.unsir(optax.sgd(0.1), **options)
