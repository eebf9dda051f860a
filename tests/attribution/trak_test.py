import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import attribution, tasks, training


@pytest.fixture(scope="module")
def problem():
    data = {k: jnp.asarray(v) for k, v in problems.digits(80).items()}
    task = problems.mlp((6,))

    def fit(rng):
        indices = jnp.arange(80)
        options = {"num_epochs": 5, "batch_size": 20}
        return training.train(task, optax.adam(1e-2), data, indices, rng, **options)[0].variables

    return task, data, [jax.jit(fit)(jax.random.key(i)) for i in range(2)]


def gradients(task, variables, data):
    """`[N, P]`, one example after another."""
    flat, unravel = ravel_pytree(variables["params"])

    def output(flat, i):
        batch = {k: v[i : i + 1] for k, v in data.items()}
        outputs, _ = task.apply({"params": unravel(flat)}, batch, None, False)
        return tasks.margin(outputs["logits"], batch["targets"])[0]

    return np.stack([jax.grad(output)(flat, i) for i in range(len(data["targets"]))])


def test_projections_keep_inner_products_and_do_not_depend_on_batches(problem):
    task, data, models = problem
    project = lambda size: attribution.project_gradients(
        task, models[0], data, jax.random.key(3), num_projections=2000, batch_size=size
    )
    projected = project(32)
    assert projected.shape == (80, 1, 2000)
    np.testing.assert_allclose(projected, project(7), rtol=1e-3, atol=1e-3)
    exact = gradients(task, models[0], data)
    inner, expected = (x @ x.T for x in (np.asarray(projected)[:, 0], exact))
    norms = np.linalg.norm(exact, axis=1)
    error = np.abs(inner - expected) / np.outer(norms, norms)
    assert error.mean() < 1 / np.sqrt(2000) and error.max() < 6 / np.sqrt(2000)


def test_scores_are_the_estimator_on_the_projected_gradients(problem):
    task, data, models = problem
    evaluation = {k: v[:9] for k, v in data.items()}
    options = {"num_projections": 20, "batch_size": 16}
    result = attribution.trak(task, models, data, evaluation, jax.random.key(0), **options)
    parts, weights = [], []
    for variables in models:
        phi, phi_eval = (
            np.asarray(
                attribution.project_gradients(task, variables, x, jax.random.key(0), **options),
                np.float64,
            )[:, 0]
            for x in (data, evaluation)
        )
        parts.append(phi_eval @ np.linalg.inv(phi.T @ phi) @ phi.T)
        confidence = training.evaluate(task, variables, data)["confidence"]
        weights.append(1 - np.asarray(confidence))
    expected = np.mean(parts, axis=0) * np.mean(weights, axis=0)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(result.scores[:, 0], expected, atol=0.02 * scale)
    change = attribution.predict_counterfactual(result, jnp.array([1, 2]))
    np.testing.assert_allclose(change, -np.asarray(result.scores)[..., [1, 2]].sum(-1), rtol=1e-4)


def test_an_example_supports_itself(problem):
    task, data, models = problem
    scores = np.asarray(
        attribution.trak(task, models, data, data, jax.random.key(0), num_projections=40).scores
    )[:, 0]
    others = (scores.sum(1) - np.diag(scores)) / 79
    assert (np.diag(scores) > others).mean() > 0.95


def test_scores_of_logits_make_those_of_the_margin(problem):
    """Attribution is linear: a margin's scores are its gradient by the logits times theirs."""
    task, data, models = problem
    some = {k: v[:9] for k, v in data.items()}
    args = (task, models[:1], data, some, jax.random.key(0))
    options = {"num_projections": 40, "projection": "gaussian"}
    logits = attribution.trak(*args, output=attribution.logit_output, **options)
    margin = attribution.trak(*args, **options)
    outputs = training.outputs(task, models[0], some)["logits"]
    slope = jax.vmap(jax.grad(lambda z, y: tasks.margin(z[None], y[None])[0]))
    by_logit = slope(outputs, some["targets"])
    expected = jnp.einsum("ec,ecn->en", by_logit, logits.scores)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(margin.scores[:, 0], expected, atol=1e-3 * scale)


def test_bad_values_are_named(problem):
    task, data, models = problem
    with pytest.raises(ValueError, match="projection must be one of"):
        attribution.trak(task, models, data, data, jax.random.key(0), projection="sparse")


def test_bad_numbers_are_named(problem):
    task, data, models = problem
    with pytest.raises(ValueError, match="num_projections must be >= 1"):
        attribution.trak(task, models, data, data, jax.random.key(0), num_projections=0)
    with pytest.raises(ValueError, match="models must be at least one"):
        attribution.trak(task, [], data, data, jax.random.key(0))
