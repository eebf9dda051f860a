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
