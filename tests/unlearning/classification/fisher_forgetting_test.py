"""The noise of Fisher forgetting against variances by backpropagation in NumPy."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import tasks, unlearning
from unlearnjax.types import Request

C = 4
ALPHA, BOUND, LAST_BOUND = 1e-4, 60.0, 20.0


@pytest.fixture(scope="module")
def network():
    """Two layers, the first with a kernel in the form of a convolution's and as wide as the last.

    Class 2 is in no retain example that counts.
    """
    rng = np.random.default_rng(7)
    params = {
        "first": {"kernel": rng.normal(size=(2, 3, 2, C)), "bias": rng.normal(size=C)},
        "last": {"kernel": rng.normal(size=(C, C)), "bias": rng.normal(size=C)},
    }
    params["first"]["bias"][3] = -100.0  # a dead unit: nothing depends on its parameters
    inputs = rng.normal(size=(10, 12)) * np.geomspace(0.05, 3, 12)
    targets = np.array([0, 1, 3, 0, 1, 3, 2, 0, 1, 3])
    weight = np.array([1, 1, 2, 1, 0.5, 1, 0, 1, 1, 3])
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    retain = {"inputs": inputs.astype(np.float32), "targets": targets, "index": np.arange(10)}

    def apply(variables, batch, rng, train):
        first, last = variables["params"]["first"], variables["params"]["last"]
        hidden = jax.nn.relu(batch["inputs"] @ first["kernel"].reshape(12, C) + first["bias"])
        return {"logits": hidden @ last["kernel"] + last["bias"]}, variables

    task = tasks.classification(tasks.Model(lambda rng, batch: {}, apply))
    return task, {"params": params}, {**retain, "weight": weight.astype(np.float32)}


def fisher_by_loops(params, retain, batch_size):
    """Backpropagation by hand, batch by batch and label by label."""
    first, last = (jax.tree.map(np.float64, params[name]) for name in ("first", "last"))
    kernel = first["kernel"].reshape(12, C)
    total = jax.tree.map(lambda p: np.zeros(p.shape), params)
    starts = range(0, len(retain["targets"]), batch_size)
    for start in starts:
        x, weight = (retain[k][start : start + batch_size] for k in ("inputs", "weight"))
        share = weight / weight.sum()
        hidden = np.maximum(x @ kernel + first["bias"], 0)
        p = np.exp(hidden @ last["kernel"] + last["bias"])
        p /= p.sum(1, keepdims=True)
        for label in range(C):
            error = share[:, None] * (p - np.eye(C)[label])
            below = (error @ last["kernel"].T) * (hidden > 0)
            gradient = {
                "first": {"kernel": (x.T @ below).reshape(2, 3, 2, C), "bias": below.sum(0)},
                "last": {"kernel": hidden.T @ error, "bias": error.sum(0)},
            }
            probability = share @ p[:, label]
            total = jax.tree.map(lambda t, g: t + probability * g**2, total, gradient)  # noqa: B023
    return jax.tree.map(lambda t: t / len(starts), total)


def spread(network, retain, num_draws=4000, **options):
    """Means and standard deviations of the noisy parameters, and the draws themselves."""
    task, variables, _ = network
    method = unlearning.fisher_forgetting(
        alpha=ALPHA, max_inverse=BOUND, max_inverse_last=LAST_BOUND, **options
    )
    assert method.needs == {"retain", "inputs", "labels"}
    keys = jax.random.split(jax.random.key(0), num_draws)
    update = lambda key: method.update(key, task, variables, (), Request(None, retain))[0]
    draws = jax.jit(jax.vmap(update))(keys)["params"]
    means = jax.tree.map(lambda x: np.asarray(x).mean(0), draws)
    deviations = jax.tree.map(lambda x: np.asarray(x).std(0), draws)
    return means, deviations, draws


@pytest.mark.parametrize("batch_size", [4, 32])
def test_fisher_noise_has_the_published_mean_and_variance(network, batch_size):
    _, variables, retain = network
    params = variables["params"]
    means, deviations, draws = spread(network, retain, batch_size=batch_size)
    fisher = fisher_by_loops(params, retain, batch_size)
    inverse = jax.tree.map(lambda f: 1 / (f + 1e-8), fisher)
    bounds = {"first": BOUND, "last": LAST_BOUND}
    for layer, bound in bounds.items():
        kernel = np.ravel(inverse[layer]["kernel"])
        assert 0 < (kernel > bound).sum() < kernel.size, "the bound decides all or nothing"
        expected = jax.tree.map(lambda i: ALPHA * np.minimum(i, bound), inverse[layer])  # noqa: B023
        mean = jax.tree.map(np.array, params[layer])
        axis = {"first": 2, "last": 0}[layer]  # the inputs' axis, of all that the kernel has
        shape = expected["kernel"].shape
        expected["kernel"] = np.broadcast_to(expected["kernel"].mean(axis, keepdims=True), shape)
        expected["kernel"] = expected["kernel"].copy()
        expected["bias"] *= 10  # it is one-dimensional
        if layer == "last":
            expected["kernel"] *= 10
            for name in ("kernel", "bias"):
                expected[name][..., 2] = 1e-4 * 10
                mean[name][..., 2] = 0
        for name in ("kernel", "bias"):
            deviation = np.sqrt(expected[name])
            np.testing.assert_allclose(deviations[layer][name], deviation, rtol=0.06)
            # Five standard errors of a mean of 4,000.
            assert (np.abs(means[layer][name] - mean[name]) < 0.08 * deviation).all()
    # Normal, and independent from one entry and from one parameter to the next.
    flat = np.stack([np.ravel(leaf) for leaf in jax.vmap(lambda d: ravel_pytree(d)[0])(draws)])
    normed = (flat - flat.mean(0)) / flat.std(0)
    assert np.mean(np.abs(normed) < 1) == pytest.approx(0.6827, abs=0.005)
    correlation = normed.T @ normed / len(normed) - np.eye(normed.shape[1])
    assert np.abs(correlation).max() < 0.09


def test_classes_that_the_retain_set_has_keep_their_logits(network):
    _, variables, retain = network
    means = spread(network, {**retain, "weight": np.ones(10, np.float32)}, num_draws=200)[0]
    last = variables["params"]["last"]
    np.testing.assert_allclose(means["last"]["kernel"][:, 2], last["kernel"][:, 2], atol=0.1)
    unweighted = {k: v for k, v in retain.items() if k != "weight"}
    again = spread(network, unweighted, num_draws=200)[0]
    problems.assert_trees_close(means, again, rtol=1e-5)


def test_every_parameter_keeps_its_type(network):
    task, variables, retain = network
    low = {"params": {**variables["params"]}}
    low["params"]["first"] = jax.tree.map(jnp.bfloat16, low["params"]["first"])
    types = jax.tree.map(lambda leaf: leaf.dtype, low)
    method = unlearning.fisher_forgetting()
    update = lambda key: method.update(key, task, low, (), Request(None, retain))[0]
    assert jax.tree.map(lambda x: x.dtype, jax.eval_shape(update, jax.random.key(0))) == types


def test_the_defaults_are_the_published_setting():
    parameters = inspect.signature(unlearning.fisher_forgetting).parameters.values()
    assert {p.name: p.default for p in parameters} == {
        "alpha": 1e-6,
        "max_inverse": 1e3,
        "max_inverse_last": 1e2,
        "batch_size": 32,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"max_inverse": 0.0}, "max_inverse must be > 0"),
        ({"max_inverse_last": 0.0}, "max_inverse_last must be"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_bad_values_are_named_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.fisher_forgetting(**options)


def test_targets_that_are_no_classes_are_refused(network):
    task, variables, retain = network
    request = Request(None, {**retain, "targets": np.ones(10, np.float32)})
    with pytest.raises(ValueError, match="targets must be class ids, got float32"):
        unlearning.fisher_forgetting().update(jax.random.key(0), task, variables, (), request)
