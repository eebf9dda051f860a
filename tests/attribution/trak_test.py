import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import attribution, models, tasks, training


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


def test_gradients_are_of_as_many_examples_as_asked_for(problem):
    """Which no value shows: seen in the shapes of the computation."""
    task, data, models = problem
    seen = problems.shapes(
        lambda v: attribution.project_gradients(
            task, v, data, jax.random.key(3), num_projections=9, batch_size=7
        ),
        models[0],
    )
    assert {(7, 1, 64, 6), (7, 9)} <= seen and not {(64, 1, 64, 6), (64, 9)} & seen


def test_every_block_of_a_wide_layer_has_a_projection_of_its_own():
    """Unit gradients, 2^14 entries apart: signs keep each one's length, and their right angle."""
    width = 2**15 + 3  # the last block is nearly empty
    rows = np.zeros((2, width), np.float32)
    rows[0, 5] = rows[1, 5 + 2**14] = 1
    dot = lambda task, variables, batch: (batch["inputs"] @ variables["params"]["w"])[:, None]
    projected = attribution.project_gradients(
        None,
        {"params": {"w": jnp.zeros(width)}},
        {"inputs": rows},
        jax.random.key(0),
        num_projections=100,
        output=dot,
    )[:, 0]
    np.testing.assert_allclose(projected @ projected.T, np.eye(2), atol=5 / np.sqrt(100))


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


@pytest.fixture(scope="module")
def deficient():
    """30 rows, 12 parameters of which the margins know 8: a constant of all logits is free."""
    rng = np.random.default_rng(0)
    task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=())))
    inputs = rng.normal(size=(30, 3)).astype(np.float32)
    data = {"inputs": inputs, "targets": np.arange(30) % 3, "index": np.arange(30)}
    variables = [task.init(jax.random.key(i), data) for i in range(2)]
    evaluation = {**data, "inputs": rng.normal(size=(30, 3)).astype(np.float32)}
    return task, variables, data, evaluation


def dense(task, variables, data, evaluation, features=None, damping=0.0):
    """TRAK in float64 NumPy: of the whole gradients and the pseudo-inverse, or as given."""
    parts, weights = [], []
    for one in variables:
        phi, phi_eval = (
            np.float64(features(one, x) if features else gradients(task, one, x))
            for x in (data, evaluation)
        )
        kernel = phi.T @ phi + damping * np.trace(phi.T @ phi) / phi.shape[1] * np.eye(phi.shape[1])
        parts.append(phi_eval @ np.linalg.pinv(kernel, rcond=1e-9, hermitian=True) @ phi.T)
        logits = np.float64(training.outputs(task, one, data)["logits"])
        confidence = np.exp(logits)[range(len(phi)), data["targets"]] / np.exp(logits).sum(1)
        weights.append(1 - confidence)
    return np.mean(parts, axis=0) * np.mean(weights, axis=0)


@pytest.mark.parametrize(("k", "warnings"), [(9, 0), (12, 1), (40, 2)])
def test_projections_wider_than_the_rank_give_what_the_whole_gradients_give(deficient, k, warnings):
    with pytest.warns() if warnings else contextlib.nullcontext() as caught:
        result = attribution.trak(*deficient, jax.random.key(3), num_projections=k)
    if warnings:
        assert len(caught) == warnings and "num_projections should be below" in str(caught[0])
    expected = dense(*deficient)
    np.testing.assert_allclose(
        result.scores[:, 0], expected, rtol=0, atol=2e-4 * np.abs(expected).max()
    )


@pytest.mark.filterwarnings("ignore:num_projections")
@pytest.mark.parametrize("k", [5, 24, 40])
def test_narrow_and_interpolating_projections_are_their_closed_form(problem, k, damping=0.3):
    """With 24 rows and 460 parameters, 40 projections are more than the rows."""
    task, data, variables = problem
    data, evaluation = ({n: x[s] for n, x in data.items()} for s in (slice(24), slice(24, 32)))
    options = {"num_projections": k, "batch_size": 24}
    result = attribution.trak(
        task, variables, data, evaluation, jax.random.key(3), damping=damping, **options
    )

    def features(variables, x):
        return attribution.project_gradients(task, variables, x, jax.random.key(3), **options)[:, 0]

    expected = dense(task, variables, data, evaluation, features, damping)
    np.testing.assert_allclose(
        result.scores[:, 0], expected, rtol=0, atol=1e-3 * np.abs(expected).max()
    )


def test_low_precision_parameters_and_gradients_that_vanish_are_no_reason_for_nan(deficient):
    task, variables, data, evaluation = deficient
    low = [jax.tree.map(lambda x: x.astype(jnp.bfloat16), v) for v in variables]
    result = attribution.trak(task, low, data, evaluation, jax.random.key(3), num_projections=4)
    same = [jax.tree.map(lambda x: x.astype(jnp.float32), v) for v in low]
    expected = attribution.trak(task, same, data, evaluation, jax.random.key(3), num_projections=4)
    assert result.scores.dtype == jnp.float32
    scale = np.abs(expected.scores).max()
    np.testing.assert_allclose(result.scores, expected.scores, rtol=0, atol=0.05 * scale)
    nothing = lambda task, variables, batch: 0 * attribution.margin_output(task, variables, batch)
    flat = attribution.trak(*deficient, jax.random.key(3), output=nothing, num_projections=4)
    np.testing.assert_array_equal(flat.scores, 0)
