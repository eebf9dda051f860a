import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests import problems
from unlearnjax import tasks

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-30.0, 40.0, 3.0]])
TARGETS = np.array([0, 2, 0])


def test_loss_and_metrics_agree_with_scipy():
    task = problems.softmax_regression()
    outputs, batch = {"logits": jnp.asarray(LOGITS)}, {"targets": jnp.asarray(TARGETS)}
    log_probs = scipy.special.log_softmax(LOGITS, axis=1)
    np.testing.assert_allclose(task.loss(outputs, batch), -log_probs[range(3), TARGETS], rtol=1e-5)
    metrics = task.metrics(outputs, batch)
    np.testing.assert_array_equal(metrics["accuracy"], [1, 0, 0])
    np.testing.assert_allclose(
        metrics["confidence"], np.exp(log_probs)[range(3), TARGETS], rtol=1e-5
    )
    entropy = scipy.stats.entropy(np.exp(log_probs), axis=1)
    np.testing.assert_allclose(metrics["entropy"], entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [None, 1.0, 4.0])
def test_divergence_is_the_relative_entropy_of_softened_predictions(temperature):
    task, reference = problems.softmax_regression(), LOGITS[::-1]
    given = ({"logits": jnp.asarray(x)} for x in (LOGITS, reference))
    more = () if temperature is None else (temperature,)
    softened = (
        scipy.special.softmax(x / (temperature or 1.0), axis=1) for x in (reference, LOGITS)
    )
    expected = (temperature or 1.0) ** 2 * scipy.stats.entropy(*softened, axis=1)
    np.testing.assert_allclose(task.divergence(*given, {}, *more), expected, rtol=1e-4)


def test_margin_is_the_log_odds_of_the_true_class():
    probs = scipy.special.softmax(LOGITS[:2], axis=1)[range(2), TARGETS[:2]]
    np.testing.assert_allclose(
        tasks.margin(jnp.asarray(LOGITS[:2]), jnp.asarray(TARGETS[:2])),
        np.log(probs / (1 - probs)),
        rtol=1e-5,
    )
    # Where probabilities underflow the margin still is exact.
    np.testing.assert_allclose(
        tasks.margin(jnp.asarray(LOGITS[2:]), jnp.asarray(TARGETS[2:])), [-70.0], rtol=1e-5
    )
