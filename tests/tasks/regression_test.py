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
