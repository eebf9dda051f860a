import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import problems
from unlearnjax import curvature, models


@pytest.fixture(scope="module")
def problem():
    """A small network with shared weights, examples that weigh differently; 11 of them, uneven."""
    task = problems.linen(models.ConvNet(num_classes=10, channels=(3,), hidden=5))
    data = {k: jnp.asarray(v) for k, v in problems.digits(11).items()}
    return task, problems.init(task, data), data


def brute_force(task, variables, data):
    """One gradient per example."""

    @jax.jit
    def gradient(example):
        def loss(params):
            outputs, _ = task.apply({"params": params}, example, None, False)
            return task.loss(outputs, example)[0]

        return jax.grad(loss)(variables["params"])

    rows = [{k: v[i : i + 1] for k, v in data.items()} for i in range(len(data["targets"]))]
    leaves = [jax.tree.leaves(gradient(row)) for row in rows]
    return np.array([sum(np.sum(np.asarray(g, float) ** 2) for g in own) for own in leaves])


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_norms_are_those_of_single_examples(problem, batch_size):
    task, variables, data = problem
    weighted = {**data, "weight": jnp.arange(11.0)}  # not applied
    norms = curvature.squared_gradient_norms(task, variables, weighted, batch_size=batch_size)
    assert norms.shape == (11,) and norms.dtype == jnp.float32
    np.testing.assert_allclose(norms, brute_force(task, variables, data), rtol=1e-4)


@pytest.mark.parametrize("fn", [curvature.squared_gradient_norms, curvature.fisher_trace_shares])
def test_no_more_gradients_at_once_than_the_batch_size(problem, fn):
    task, variables, data = problem
    kernel = jax.tree.leaves(variables["params"])[-1].shape
    many = {k: jnp.concatenate([v] * 5) for k, v in data.items()}
    for options, at_once in (({"batch_size": 4}, 4), ({}, 32)):
        seen = problems.shapes(lambda v, o=options: fn(task, v, many, **o), variables)
        assert {shape[0] for shape in seen if shape[1:] == kernel} == {at_once}


def test_shares_are_parts_of_the_trace(problem):
    task, variables, data = problem
    weight = np.array([0.0, 2.0, *np.ones(9)])
    weighted = {**data, "weight": jnp.asarray(weight, jnp.float32)}
    shares = curvature.fisher_trace_shares(task, variables, weighted, batch_size=4)
    terms = weight * brute_force(task, variables, data)
    np.testing.assert_allclose(shares, terms / terms.sum(), rtol=1e-4)
    fisher = curvature.fisher_diagonal(task, variables, weighted, method="vmap")
    trace = sum(float(leaf.sum()) for leaf in jax.tree.leaves(fisher))
    assert trace * weight.sum() == pytest.approx(terms.sum(), rel=1e-4)
    plain = curvature.fisher_trace_shares(task, variables, data)
    assert float(plain.sum()) == pytest.approx(1.0, rel=1e-5)


def test_without_gradients_nobody_has_a_share(problem):
    task, variables, data = problem
    flat = task._replace(loss=lambda outputs, batch: 0 * outputs["logits"].sum(-1))
    np.testing.assert_array_equal(curvature.fisher_trace_shares(flat, variables, data), 0)
