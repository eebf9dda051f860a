import numpy as np

from tests import problems
from unlearnjax import attribution


def test_outputs_are_what_they_say_of_given_logits():
    """Log-odds by hand: e^6 to e + e^2, and 1 to e^3 + 1."""
    logits = np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    task = problems.mlp()._replace(apply=lambda v, batch, rng, train: ({"logits": logits}, v))
    batch = {"targets": np.array([2, 0])}
    centred = attribution.logit_output(task, {}, batch)
    np.testing.assert_array_equal(centred, [[-2.0, -1.0, 3.0], [-1.0, -1.0, 2.0]])
    margins = [[6 - np.log(np.exp(1) + np.exp(2))], [-np.log(np.exp(3) + 1)]]
    np.testing.assert_allclose(attribution.margin_output(task, {}, batch), margins, rtol=1e-6)


def test_the_margin_of_a_language_model_is_the_mean_over_its_answer():
    """Log-odds of two words out of three: of the second token, and of both."""
    logits = np.array([[[9.0, 0, 0], [1, 2, 6]], [[0, 0, 3], [0, 1, 0]]])
    task = problems.mlp()._replace(apply=lambda v, batch, rng, train: ({"logits": logits}, v))
    batch = {"targets": np.array([[0, 2], [0, 1]]), "answer": np.array([[0, 1], [1, 1]])}
    first, second = 6 - np.log(np.exp(1) + np.exp(2)), -np.log(np.exp(3) + 1)
    expected = [[first], [(second + 1 - np.log(2)) / 2]]
    np.testing.assert_allclose(attribution.margin_output(task, {}, batch), expected, rtol=1e-6)
