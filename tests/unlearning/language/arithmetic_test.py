"""Task vectors are linear in alpha, through the given model and the fine-tuned one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning.language import toy
from unlearnjax import unlearning
from unlearnjax.types import Request

REQUEST, GIVEN = toy.problem()


@pytest.fixture(scope="module")
def unlearned():
    @jax.jit
    @jax.vmap
    def run(alpha):
        method = unlearning.task_vector(optax.sgd(0.1), alpha=alpha, num_epochs=3, batch_size=100)
        request = Request(REQUEST.forget, original=REQUEST.original)
        return method.update(jax.random.key(0), toy.TASK, GIVEN, (), request)[0]["params"]

    models = run(jnp.array([0.0, -1.0, 1.0, 0.5]))
    return [jax.tree.map(lambda x, i=i: x[i], models) for i in range(4)]


def test_alpha_0_is_the_given_model_and_minus_1_the_fine_tuned_one(unlearned):
    problems.assert_trees_equal(unlearned[0], GIVEN["params"])
    tuned = GIVEN
    for _ in range(3):
        slope = toy.nll_slope(tuned, REQUEST.forget)
        tuned = {"params": jax.tree.map(lambda x, g: x - 0.1 * g, tuned["params"], slope)}
    problems.assert_trees_close(unlearned[1], tuned["params"], 1e-5)


def test_it_is_linear_in_between(unlearned):
    given, tuned, negated, half = unlearned
    expected = jax.tree.map(lambda g, t: 2 * g - t, given, tuned)
    problems.assert_trees_close(negated, expected, 1e-5)
    problems.assert_trees_close(half, jax.tree.map(lambda g, n: (g + n) / 2, given, negated), 1e-5)


def test_it_needs_the_forget_set_alone():
    method = unlearning.task_vector(optax.sgd(0.1))
    assert method.needs == {"forget", "inputs", "labels"}
    with pytest.raises(ValueError, match="alpha must be finite"):
        unlearning.task_vector(optax.sgd(0.1), alpha=np.nan)


def test_batches_are_as_large_as_asked():
    sizes = []

    def apply(variables, batch, rng, train):
        sizes.append(len(batch["inputs"]))
        return toy.apply(variables, batch, rng, train)

    task = toy.TASK._replace(apply=apply)
    method = unlearning.task_vector(optax.sgd(0.1), batch_size=3)
    jax.eval_shape(lambda v: method.update(jax.random.key(0), task, v, (), REQUEST)[0], GIVEN)
    assert set(sizes) == {3}
