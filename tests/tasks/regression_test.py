import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tests import problems
from unlearnjax import curvature, models, tasks, training


@pytest.fixture
def data(rng):
    inputs = rng.normal(size=(30, 4)).astype(np.float32)
    return {"inputs": inputs, "targets": rng.normal(size=30).astype(np.float32)}


def regressor(hidden=()):
    return tasks.regression(tasks.from_linen(models.MLP(num_classes=1, hidden=hidden)))


def test_loss_is_the_gaussian_log_likelihood_up_to_a_constant(data):
    task = regressor()
    variables = problems.init(task, data)
    outputs = training.evaluate(task, variables, data)
    likelihood = stats.norm.logpdf(data["targets"], loc=outputs["prediction"])
    np.testing.assert_allclose(
        outputs["loss"], -likelihood - np.log(2 * np.pi) / 2, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(outputs["absolute_error"] ** 2, outputs["squared_error"], rtol=1e-5)


def test_fisher_of_linear_regression_is_the_residual_times_the_inputs_squared(data):
    """The layer rules know this task as well as classification."""
    task = regressor()
    variables = problems.init(task, data)
    fisher = curvature.fisher_diagonal(task, variables, data)
    residual = training.evaluate(task, variables, data)["prediction"] - data["targets"]
    expected = np.mean((np.asarray(residual)[:, None] * data["inputs"]) ** 2, axis=0)
    np.testing.assert_allclose(fisher["Dense_0"]["kernel"][:, 0], expected, rtol=1e-4)


def test_a_model_of_several_outputs_is_refused(data):
    task = tasks.regression(tasks.from_linen(models.MLP(num_classes=2, hidden=())))
    with pytest.raises(AssertionError):
        training.evaluate(task, problems.init(task, data), data)


def test_evidence_bound_by_hand(rng):
    task = tasks.autoencoding(tasks.from_linen(models.VAE(2), rng_names=("sample",)))
    mean, log_variance = rng.normal(size=(2, 5, 2))
    x, rebuilt = rng.normal(size=(2, 5, 3))
    outputs = {"reconstruction": rebuilt, "mean": mean, "log_variance": log_variance}
    divergence = [
        sum(-0.5 * lv - 0.5 + 0.5 * (np.exp(lv) + m**2) for m, lv in zip(ms, lvs, strict=True))
        for ms, lvs in zip(mean, log_variance, strict=True)
    ]
    expected = 0.5 * ((x - rebuilt) ** 2).sum(1) + np.array(divergence)
    np.testing.assert_allclose(task.loss(outputs, {"inputs": x}), expected, rtol=1e-4)


def test_autoencoders_draw_latents_while_training_only(digits):
    task = tasks.autoencoding(tasks.from_linen(models.VAE(2), rng_names=("sample",)))
    batch = {"inputs": jnp.asarray(digits["inputs"][:6].reshape(6, -1))}
    variables = task.init(jax.random.key(0), batch)
    first, second = (
        task.apply(variables, batch, jax.random.key(i), True)[0]["reconstruction"] for i in (1, 2)
    )
    assert not np.allclose(first, second)
    calm = [task.apply(variables, batch, None, False)[0]["reconstruction"] for _ in range(2)]
    np.testing.assert_array_equal(*calm)
