import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tests import problems
from unlearnjax import training, unlearning
from unlearnjax.types import Request

laf = importlib.import_module(
    "unlearnjax.unlearning.laf"
)  # the package has the function by that name

FLAGS = np.array([1.0, 0.0, 1.0, 1.0, 0.0])


@pytest.fixture(scope="module")
def problem():
    data = problems.digits(500)
    task = problems.mlp((32,))
    state, _ = jax.jit(
        lambda rng: training.train(
            task, optax.adam(3e-3), data, jnp.arange(500), rng, num_epochs=15, batch_size=50
        )
    )(jax.random.key(0))
    mask = data["targets"] == 3
    unlabelled = {k: v for k, v in data.items() if k != "targets"}
    forget, retain = ({k: jnp.asarray(v[m]) for k, v in unlabelled.items()} for m in (mask, ~mask))
    return task, state.variables, Request(forget, retain), data, mask


def features(problem, variables, part):
    return np.asarray(problem[0].apply(variables, part, None, False)[0]["features"])


def test_forget_features_leave_and_the_classifier_stays_bit_equal(problem):
    task, original, request, data, mask = problem
    method = unlearning.enforce(unlearning.laf(optax.adam(1e-2), batch_size=16))
    updated = jax.jit(lambda rng: method.update(rng, task, original, (), request)[0])(
        jax.random.key(0)
    )
    accuracy = np.asarray(training.evaluate(task, updated, data)["accuracy"])
    assert accuracy[mask].mean() < 0.2 and accuracy[~mask].mean() > 0.95
    problems.assert_trees_equal(updated["params"]["Dense_1"], original["params"]["Dense_1"])
    before, after = (features(problem, v, request.forget) for v in (original, updated))
    assert (
        np.linalg.norm(after - before, axis=1).mean() > 0.5 * np.linalg.norm(before, axis=1).mean()
    )


def linear_task():
    """Its features are `inputs @ params`; there is nothing else."""
    apply = lambda v, batch, rng, train: ({"features": batch["inputs"] @ v["params"]}, v)
    return problems.softmax_regression()._replace(apply=apply)


def scaling_density():
    """Reconstructs features as `scale` times themselves: squared error `(1 - scale)^2 |x|^2`."""
    return laf.density_task(2)._replace(
        apply=lambda scale, batch, rng, train: ({"reconstruction": scale * batch["inputs"]}, scale)
    )


def test_leaving_is_the_saturated_error_with_its_sign(rng):
    """Retain under the density of all, with +; forget under that of its own, with -."""
    inputs = rng.normal(size=(5, 3)).astype(np.float32)
    batch = {"inputs": inputs, "part": jnp.asarray(1 - np.asarray(FLAGS), int)}
    loss_fn = laf.leaving(linear_task(), scaling_density(), 0.5, 3.0)
    losses, _ = loss_fn({"params": jnp.eye(3)}, batch, None)
    for i, flag in enumerate(FLAGS):
        squared = (inputs[i] ** 2).sum() * (4.0 if flag else 0.25)
        expected = np.exp(squared / (squared + 1)) * (-1 if flag else 1)
        assert float(losses[i]) == pytest.approx(expected, rel=1e-5)


def test_aligning_contrasts_each_kind_with_the_original_of_its_own(rng):
    inputs, before = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
    weight = np.array([1.0, 1.0, 3.0, 0.0, 1.0])
    batch = {
        "inputs": inputs,
        "original.features": jnp.asarray(before),
        "part": jnp.asarray(1 - np.asarray(FLAGS), int),
        "weight": jnp.asarray(weight),
    }
    losses, _ = laf.aligning(linear_task(), 5.0)({"params": jnp.eye(3)}, batch, None)
    cosine = (inputs * before).sum(1) / np.linalg.norm(inputs, axis=1)
    distance = 1 - cosine / np.linalg.norm(before, axis=1)
    # Example 2 counts three times, example 3 is padding.
    moved = scipy.special.logsumexp(distance[[0, 2, 2, 2]] / 5.0)
    expected = np.where(FLAGS > 0, 0.0, distance - moved)
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-6)


def test_aligning_is_finite_where_nothing_counts_or_features_vanish():
    batch = {
        "inputs": jnp.zeros((2, 3)),
        "original.features": jnp.zeros((2, 3)),
        "part": jnp.array([0, 1]),
        "weight": jnp.array([0.0, 1.0]),
    }
    loss = lambda params: laf.aligning(linear_task(), 5.0)({"params": params}, batch, None)[0][1]
    assert np.isfinite(loss(jnp.eye(3)))
    np.testing.assert_array_equal(jax.grad(loss)(jnp.eye(3)), 0.0)


def test_the_density_models_loss_is_the_published_one(rng):
    x, rebuilt = rng.normal(size=(2, 4, 6)).astype(np.float32)
    mean, log_variance = rng.normal(size=(2, 4, 3)).astype(np.float32)
    outputs = {"reconstruction": rebuilt, "mean": mean, "log_variance": log_variance}
    error = ((x - rebuilt) ** 2).sum(1)
    divergence = -0.5 * (1 + log_variance - mean**2 - np.exp(log_variance)).sum(1)
    density = laf.density_task(3)
    np.testing.assert_allclose(
        density.loss(outputs, {"inputs": x}), error + 0.025 * divergence, rtol=1e-5
    )
    metrics = density.metrics(outputs, {"inputs": x})
    np.testing.assert_allclose(metrics["squared_error"], error, rtol=1e-5)


def by_hand(problem, request, rng, rates, num_epochs, batch_size):
    """The two steps in turn on all of the data, by gradient descent on weighted means."""
    task, original, *_ = problem
    _, all_rng, forget_rng, _ = jax.random.split(rng, 4)
    parts = [request.forget, request.retain]
    weights = [jnp.ones(len(parts[0]["inputs"])), request.retain["weight"]]
    penultimate = lambda params, part: task.apply({"params": params}, part, None, False)[0][
        "features"
    ]
    before = [penultimate(original["params"], part) for part in parts]
    density = laf.density_task(4)

    def fitted(rng, x, weight):
        options = {"num_epochs": 2, "batch_size": batch_size}
        data = {"inputs": x, "weight": weight}
        return training.train(density, optax.adam(1e-2), data, jnp.arange(len(x)), rng, **options)[
            0
        ]

    models = (
        fitted(forget_rng, before[0], weights[0]),
        fitted(all_rng, jnp.concatenate(before), jnp.concatenate(weights)),
    )
    count = weights[0].sum() + weights[1].sum()

    def leave(params):
        total = 0.0
        for part, weight, model, sign in zip(parts, weights, models, (-1, 1), strict=True):
            x = penultimate(params, part)
            outputs, _ = density.apply(model.variables, {"inputs": x}, None, False)
            squared = jnp.sum((x - outputs["reconstruction"]) ** 2, axis=1)
            total += sign * jnp.sum(weight * jnp.exp(squared / (squared + 1)))
        return total / count

    def align(params):
        distances = []
        for part, frozen in zip(parts, before, strict=True):
            x = penultimate(params, part)
            norms = jnp.linalg.norm(x, axis=1) * jnp.linalg.norm(frozen, axis=1)
            distances.append(1 - jnp.sum(x * frozen, axis=1) / norms)
        moved = jnp.log(jnp.sum(jnp.exp(distances[0] / 5.0)))
        return jnp.sum(weights[1] * (distances[1] - moved)) / count

    params = original["params"]
    for _ in range(num_epochs):
        for loss, rate in zip((leave, align), rates, strict=True):
            params = jax.tree.map(lambda p, g, r=rate: p - r * g, params, jax.grad(loss)(params))
    return params


def test_two_steps_alternate_on_every_batch(problem):
    """Every batch holds all, so that the order does not matter; one part alone has weights."""
    task, original, given, *_ = problem
    forget, retain = ({k: v[:40] for k, v in part.items()} for part in given[:2])
    request = Request(forget, {**retain, "weight": jnp.linspace(0.0, 2.0, 40)})
    options = {"num_epochs": 2, "batch_size": 40, "vae_epochs": 2, "vae_learning_rate": 1e-2}
    options |= {"align_rate": 3.0, "temperature": 5.0, "latent": 4}
    method = unlearning.laf(optax.sgd(10.0), **options)
    (updated, memory), expected = jax.jit(
        lambda rng: (
            method.update(rng, task, original, (), request),
            by_hand(problem, request, rng, (10.0, 30.0), 2, 40),
        )
    )(jax.random.key(5))
    moved = optax.tree.norm(optax.tree.sub(expected, original["params"]))
    apart = optax.tree.norm(optax.tree.sub(expected, updated["params"]))
    assert float(moved) > 0.05 and float(apart) < 1e-3 * float(moved)
    assert memory == ()


@pytest.mark.parametrize(("num_forget", "num_retain", "steps"), [(5, 9, 3), (9, 5, 3), (1, 9, 1)])
def test_an_epoch_passes_once_over_the_smaller_part_beside_fresh_batches_of_the_other(
    num_forget, num_retain, steps
):
    order = laf._order(num_forget, num_forget + num_retain, 2)
    first, second = (np.asarray(order(jax.random.key(s), 0)) for s in range(2))
    width = min(2, num_forget)
    assert first.shape == (steps, width + 2)
    for rows, low, n in (
        (first[:, :width], 0, num_forget),
        (first[:, width:], num_forget, num_retain),
    ):
        seen = np.sort(rows[rows >= 0])
        assert len(set(seen)) == len(seen) and ((low <= seen) & (seen < low + n)).all()
        assert len(seen) == (n if n == min(num_forget, num_retain) else 2 * steps)
    assert not np.array_equal(first, second)


def test_defaults_are_the_authors():
    parameters = inspect.signature(unlearning.laf).parameters.values()
    assert {p.name: p.default for p in parameters if p.name != "tx"} == {
        "align_rate": 2.0,
        "num_epochs": 20,
        "batch_size": 32,
        "temperature": 20.0,
        "latent": 8,
        "vae_epochs": 10,
        "vae_learning_rate": 1e-3,
        "layer": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align_rate": -1.0}, "align_rate must be >= 0"),
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"vae_learning_rate": 0.0}, "vae_learning_rate must be > 0"),
        ({"latent": 0}, "latent must be >= 1"),
        ({"vae_epochs": 0}, "vae_epochs must be >= 1"),
        ({"num_epochs": 0}, "num_epochs must be >= 1"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.laf(optax.sgd(0.1), **options)


def test_a_transformation_that_averages_is_refused(problem):
    task, original, request, *_ = problem
    tx = training.averaged(optax.sgd(0.1), decay=0.5)
    method = unlearning.laf(tx, num_epochs=1, vae_epochs=1)
    run = lambda rng: method.update(rng, task, original, (), request)[0]
    with pytest.raises(ValueError, match="'extractor' and 'alignment' must not average the same"):
        jax.eval_shape(run, jax.random.key(0))
