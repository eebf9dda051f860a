import jax.numpy as jnp
import numpy as np
import pytest

from tests.unlearning import linear
from unlearnjax import training


@pytest.mark.parametrize("fn", [training.outputs, training.evaluate])
def test_no_more_examples_at_once_than_the_batch_size(fn):
    seen = set()

    def apply(variables, batch, rng, train):
        seen.add(len(batch["inputs"]))
        return {"logits": batch["inputs"] @ variables["params"]["w"]}, variables

    data = linear.part(np.random.default_rng(0), 300)
    variables = {"params": {"w": jnp.ones((linear.FEATURES, linear.CLASSES))}}
    for options, at_once in (({"batch_size": 70}, 70), ({}, 256), ({"batch_size": 999}, 300)):
        results = fn(linear.TASK._replace(apply=apply), variables, data, **options)
        assert seen == {at_once} and {len(value) for value in results.values()} == {300}
        seen.clear()
