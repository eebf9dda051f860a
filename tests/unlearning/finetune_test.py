import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import unlearning
from unlearnjax.types import Request


@pytest.fixture(scope="module")
def problem():
    data = problems.digits(200)
    task = problems.mlp((16,))
    mask = data["targets"] == 3
    forget, retain = ({k: jnp.asarray(v[m]) for k, v in data.items()} for m in (mask, ~mask))
    return task, problems.init(task, data), Request(forget, retain, forget)


def update(problem, method, seed=0):
    task, variables, request = problem
    memory = method.init(jax.random.key(0), task, variables, None)[1]
    return jax.jit(lambda rng: method.update(rng, task, variables, memory, request)[0])(
        jax.random.key(seed)
    )


def test_finetune_last_leaves_the_first_layers_bit_equal(problem):
    updated = update(problem, unlearning.finetune_last(optax.adamw(1e-2), layers=1, num_epochs=1))
    before = problem[1]["params"]
    problems.assert_trees_equal(updated["params"]["Dense_0"], before["Dense_0"])
    assert not np.array_equal(updated["params"]["Dense_1"]["kernel"], before["Dense_1"]["kernel"])
    named = unlearning.finetune_last(optax.adamw(1e-2), layers=("Dense_1",), num_epochs=1)
    problems.assert_trees_equal(update(problem, named), updated)


@pytest.mark.parametrize("name", ["finetune", "finetune_last", "retrain_last"])
@pytest.mark.parametrize(
    ("options", "steps"), [({}, 10 * 2), ({"num_epochs": 3, "batch_size": 50}, 3 * 4)]
)
def test_steps_are_those_of_the_epochs_over_the_retain_set_alone(problem, name, options, steps):
    """180 examples, biases that start at 0, and a transformation that adds 1 at every step."""
    task, variables, request = problem
    request = Request(None, {k: v[:180] for k, v in request.retain.items()}, None)
    one = optax.stateless(lambda gradients, params: jax.tree.map(jnp.ones_like, gradients))
    modes = set()

    def apply(variables, batch, rng, train):
        modes.add(train)
        return task.apply(variables, batch, rng, train)

    method = getattr(unlearning, name)(one, **options)
    updated = update((task._replace(apply=apply), variables, request), method)
    np.testing.assert_array_equal(updated["params"]["Dense_1"]["bias"], steps)
    assert True in modes  # layers are named, and teachers would be asked, in evaluation mode


def test_retrain_last_forgets_what_the_last_layer_knew(problem):
    """Without training afterwards the layer must be independent of the one that was there."""
    frozen = unlearning.retrain_last(optax.sgd(0.0), layers=1, num_epochs=1)
    task, variables, request = problem
    other = jax.tree.map(lambda p: p + 1.0, variables)
    memory = frozen.init(jax.random.key(0), task, variables, None)[1]
    results = [
        frozen.update(jax.random.key(7), task, v, memory, request)[0]["params"]
        for v in (variables, other)
    ]
    problems.assert_trees_equal(results[0]["Dense_1"], results[1]["Dense_1"])
    problems.assert_trees_equal(results[0]["Dense_0"], variables["params"]["Dense_0"])
    both = unlearning.retrain_last(optax.sgd(0.0), layers=2, num_epochs=1)
    anew = both.update(jax.random.key(7), task, variables, memory, request)[0]["params"]
    problems.assert_trees_equal(anew["Dense_1"], results[0]["Dense_1"])
    assert not np.array_equal(anew["Dense_0"]["kernel"], variables["params"]["Dense_0"]["kernel"])


@pytest.mark.parametrize(
    ("layers", "message"), [(3, "at most the model's 2"), (("Conv",), "among")]
)
def test_layers_that_are_not_there_are_refused(problem, layers, message):
    with pytest.raises(ValueError, match=message):
        update(problem, unlearning.finetune_last(optax.sgd(0.1), layers=layers))
    with pytest.raises(ValueError, match="layers must be >= 1"):
        unlearning.finetune_last(optax.sgd(0.1), layers=0)
