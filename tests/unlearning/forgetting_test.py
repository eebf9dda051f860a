"""Every method on one real problem: the class is lost, the others kept, the model sane."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning.methods import FORGETTING, METHODS
from unlearnjax import training, trees, unlearning
from unlearnjax.types import Request


@pytest.fixture(scope="module")
def problem():
    data = problems.digits()
    task = problems.mlp((32,))
    train = {k: v[:1500] for k, v in data.items()}
    validation = {k: v[1500:] for k, v in data.items()}
    state, _ = jax.jit(
        lambda rng: training.train(
            task, optax.adam(3e-3), train, jnp.arange(1500), rng, num_epochs=8, batch_size=64
        )
    )(jax.random.key(0))
    mask = train["targets"] == 3
    forget, retain = ({k: v[m] for k, v in train.items()} for m in (mask, ~mask))
    return task, state.variables, train, Request(forget, retain, validation)


def unlearn(problem, method, seed=0):
    task, variables, train, request = problem
    method = unlearning.enforce(method)

    @jax.jit
    def run(rng, variables):
        variables, memory = method.init(rng, task, variables, train)
        return method.update(rng, task, variables, memory, request)

    return run(jax.random.key(seed), variables)


def accuracy(problem, variables, part, method=METHODS["finetune"]):
    task, _, _, request = problem
    outputs = training.evaluate(method.serve(task), variables, getattr(request, part))
    return float(outputs["accuracy"].mean())


def test_the_original_knows_the_class_and_gentle_finetuning_keeps_it(problem):
    assert accuracy(problem, problem[1], "forget") > 0.95
    updated, _ = unlearn(problem, METHODS["finetune"])
    assert accuracy(problem, updated, "forget") > 0.7


@pytest.mark.parametrize("name", METHODS)
def test_methods_forget_the_class_and_keep_the_others(problem, name):
    method = METHODS[name]
    updated, _ = unlearn(problem, method)
    if name != "acu":  # which deploys a head of its own
        assert jax.tree.structure(updated) == jax.tree.structure(problem[1])
    assert trees.all_finite(updated)
    assert accuracy(problem, updated, "retain", method) > 0.85
    if name in FORGETTING:
        assert accuracy(problem, updated, "forget", method) < 0.35
    if name not in ("sisa", "s3t", "acu"):  # which deploy models of their own
        before, after = jax.tree.leaves(problem[1]), jax.tree.leaves(updated)
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
