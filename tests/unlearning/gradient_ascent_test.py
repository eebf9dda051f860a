"""Ascent and its balance with descent, step by step against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tests import problems
from tests.unlearning import linear
from unlearnjax import models, training, unlearning
from unlearnjax.types import Request

RATE = 0.5


def losses(w, data):
    x, y = np.asarray(data["inputs"], np.float64), np.asarray(data["targets"])
    return -scipy.special.log_softmax(x @ w, axis=1)[np.arange(len(y)), y]


def bounded_slopes(w, data, bound):
    """`[N, D, C]`: what is beyond the bound no longer pushes."""
    pushing = losses(w, data) < bound
    return linear.cross_entropy_slopes(w, data) * pushing[:, None, None]


@pytest.mark.parametrize(
    ("options", "bound"),
    [({}, np.log(3)), ({"max_loss": 1.45}, 1.45), ({"max_loss": np.inf}, np.inf)],
)
def test_every_example_climbs_until_its_loss_has_reached_the_bound(options, bound):
    request, given, _ = linear.problem(num_forget=8)
    w = linear.weights(given)
    assert 0 < (losses(w, request.forget) < bound).sum()
    method = unlearning.gradient_ascent(optax.sgd(RATE), num_epochs=2, batch_size=100, **options)
    assert method.needs == {"forget", "inputs", "labels"}
    updated, _ = method.update(jax.random.key(0), linear.TASK, given, (), request)
    for _ in range(2):
        w = w + RATE * bounded_slopes(w, request.forget, bound).mean(0)
    np.testing.assert_allclose(linear.weights(updated), w, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "beta", "bound"),
    [
        ({}, 0.99, np.log(3)),
        ({"beta": 0.8}, 0.8, np.log(3)),
        ({"beta": 0.8, "max_loss": np.inf}, 0.8, np.inf),
        ({"beta": 0.8, "max_loss": 1.45}, 0.8, 1.45),
    ],
)
def test_plus_is_its_weighted_gradient(options, beta, bound):
    request, given, _ = linear.problem(num_forget=8)
    method = unlearning.gradient_ascent_plus(
        optax.sgd(RATE), num_epochs=1, batch_size=100, **options
    )
    assert method.needs == {"forget", "retain", "inputs", "labels"}
    updated, _ = method.update(jax.random.key(0), linear.TASK, given, (), request)
    w = linear.weights(given)
    step = beta * linear.cross_entropy_slopes(w, request.retain).mean(0)
    step -= (1 - beta) * bounded_slopes(w, request.forget, bound).mean(0)
    np.testing.assert_allclose(linear.weights(updated), w - RATE * step, atol=1e-5)


@pytest.mark.parametrize("name", ["gradient_ascent", "gradient_ascent_plus"])
def test_a_pass_takes_as_many_steps_as_there_are_batches(name):
    """At a small rate every step goes about as far as the one on all examples."""
    request, given, _ = linear.problem(num_forget=8, num_retain=8)

    def moved(batch_size):
        method = getattr(unlearning, name)(
            optax.sgd(1e-3), num_epochs=1, batch_size=batch_size, max_loss=np.inf
        )
        updated, _ = method.update(jax.random.key(0), linear.TASK, given, (), request)
        return linear.weights(updated) - linear.weights(given)

    np.testing.assert_allclose(moved(2), 4 * moved(8), atol=0.02 * np.abs(4 * moved(8)).max())


def test_ascent_raises_the_forget_loss_to_about_the_bound_and_no_further(digits):
    task = problems.mlp()
    request = Request({k: jnp.asarray(v[:20]) for k, v in digits.items()})
    state, _ = training.train(
        task,
        optax.adam(1e-2),
        digits,
        jnp.arange(200),
        jax.random.key(0),
        num_epochs=10,
        batch_size=50,
    )
    method = unlearning.gradient_ascent(optax.sgd(0.05), num_epochs=100, batch_size=20)
    updated, _ = method.update(jax.random.key(0), task, state.variables, (), request)
    before, after = (
        float(training.evaluate(task, v, request.forget)["loss"].mean())
        for v in (state.variables, updated)
    )
    assert before < 0.5
    assert np.log(10) * 0.8 < after < 3 * np.log(10)


@pytest.mark.parametrize("train", [False, True])
def test_ascent_leaves_batch_statistics_alone_and_plus_does_not(digits, train):
    task = problems.linen(models.ResNet(10, stage_sizes=(1,), width=4))
    variables = problems.init(task, digits)
    forget, retain = ({k: v[s] for k, v in digits.items()} for s in (slice(20), slice(20, 60)))
    method = unlearning.gradient_ascent_plus if train else unlearning.gradient_ascent
    updated, _ = method(optax.sgd(0.1), num_epochs=1).update(
        jax.random.key(0), task, variables, (), Request(forget, retain)
    )
    before, after = (v["batch_stats"]["BatchNorm_0"]["mean"] for v in (variables, updated))
    assert np.array_equal(before, after) != train
    assert not np.array_equal(
        updated["params"]["Dense_0"]["kernel"], variables["params"]["Dense_0"]["kernel"]
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: unlearning.gradient_ascent(tx, max_loss=-2.0), "max_loss must be > 0"),
        (lambda tx: unlearning.gradient_ascent_plus(tx, beta=1.5), r"beta must lie in \[0, 1\]"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax.sgd(0.1))
