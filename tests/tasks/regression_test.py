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


def test_metrics_are_in_units_of_the_targets():
    task = regressor()
    outputs = {"logits": np.array([[1.0], [-2.0], [0.5]])}
    metrics = task.metrics(outputs, {"targets": np.array([3.0, -2.5, 0.5])})
    np.testing.assert_array_equal(metrics["absolute_error"], [2, 0.5, 0])
    np.testing.assert_array_equal(metrics["squared_error"], [4, 0.25, 0])
    np.testing.assert_array_equal(metrics["prediction"], [1, -2, 0.5])


def test_divergence_is_that_of_two_gaussians_of_unit_variance():
    """Of several predicted numbers, too; by the mean of the difference of SciPy's densities."""
    means, references = np.array([[1.0], [-2.0]]), np.array([[3.0], [-2.5]])
    points, weights = np.polynomial.hermite_e.hermegauss(9)  # exact for polynomials
    expected = [
        np.average(stats.norm.logpdf(x, r) - stats.norm.logpdf(x, m), weights=weights)
        for (m,), (r,) in zip(means, references, strict=True)
        for x in [r + points]
    ]
    given = {"logits": means}, {"logits": references}
    np.testing.assert_allclose(regressor().divergence(*given, {}), expected, rtol=1e-6)
    wide = ({"logits": np.stack([x, 2 * x], axis=1)} for x in (means, references))
    np.testing.assert_allclose(regressor().divergence(*wide, {}), 5 * np.array(expected), rtol=1e-6)
    with pytest.raises(ValueError, match="temperature must be 1 where means are predicted, got 2"):
        regressor().divergence(*given, {}, 2.0)


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
