"""What each method promises beyond forgetting: its own defining property, against an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import training, unlearning
from unlearnjax.types import Request


@pytest.fixture(scope="module")
def problem():
    data = problems.digits(600)
    task = problems.mlp((24,))
    state, _ = jax.jit(
        lambda rng: training.train(
            task, optax.adam(3e-3), data, jnp.arange(600), rng, num_epochs=15, batch_size=50
        )
    )(jax.random.key(0))
    mask = data["targets"] == 3
    forget, retain = ({k: jnp.asarray(v[m]) for k, v in data.items()} for m in (mask, ~mask))
    return task, state.variables, Request(forget, retain, forget)


def update(problem, method, seed=0, request=None):
    task, variables, given = problem
    request = request or given
    return jax.jit(lambda rng: method.update(rng, task, variables, (), request)[0])(
        jax.random.key(seed)
    )


def test_boundary_shrink_labels_are_those_of_the_attacked_examples(problem):
    task, variables, request = problem
    seen = {}
    inner = unlearning.boundary_shrink(optax.sgd(0.0), radius=0.3, num_epochs=1)
    spy = unlearning.relabel.descend

    def recording(*args, **kwargs):
        loop = spy(*args, **kwargs)

        def record(rng, task, variables, memory, request):
            seen["targets"] = request.forget["targets"]
            return variables, memory

        return loop._replace(update=record)

    unlearning.relabel.descend = recording
    try:
        inner = unlearning.boundary_shrink(optax.sgd(0.0), radius=0.3, num_epochs=1)
        inner.update(jax.random.key(0), task, variables, (), request)
    finally:
        unlearning.relabel.descend = spy
    # By hand, example by example.
    for i in range(0, len(request.forget["targets"]), 7):
        x, y = request.forget["inputs"][i : i + 1], request.forget["targets"][i : i + 1]

        def loss(x, y=y):
            outputs, _ = task.apply(variables, {"inputs": x}, None, False)
            return task.loss(outputs, {"targets": y})[0]

        attacked = x + 0.3 * jnp.sign(jax.grad(loss)(x))
        logits = np.array(task.apply(variables, {"inputs": attacked}, None, False)[0]["logits"][0])
        logits[int(y[0])] = -np.inf
        assert int(seen["targets"][i]) == logits.argmax()


def test_bad_teacher_makes_forget_predictions_those_of_a_novice(problem):
    """Far from the original's and no more confident than a fresh model's."""
    task, variables, request = problem
    method = unlearning.bad_teacher(optax.adam(3e-3), num_epochs=20, retain_fraction=1.0)
    assert "labels" not in method.needs
    updated = update(problem, method)
    entropy = lambda v, part: float(training.evaluate(task, v, part)["entropy"].mean())
    novice = problems.init(task, problems.digits(), seed=9)
    assert entropy(variables, request.forget) < 0.35 < entropy(updated, request.forget)
    assert entropy(updated, request.forget) > 0.6 * entropy(novice, request.forget)
    retained = training.evaluate(task, updated, request.retain)["accuracy"].mean()
    assert retained > 0.9


def test_scrub_without_max_epochs_and_alpha_is_finetuning_of_weight_gamma(problem):
    """Its min pass alone: the same loss, if not the same order, so compare full batches."""
    options = {"num_epochs": 3, "batch_size": 1000}
    scrub = unlearning.scrub(optax.sgd(0.1), max_epochs=0, alpha=0.0, gamma=1.0, **options)
    plain = unlearning.finetune(optax.sgd(0.1), **options)
    problems.assert_trees_close(
        update(problem, scrub)["params"], update(problem, plain)["params"], rtol=1e-4
    )


def test_scrub_moves_away_on_the_forget_set_and_stays_on_the_retain_set(problem):
    task, variables, request = problem
    updated = update(problem, unlearning.scrub(optax.adam(5e-3), num_epochs=5, max_epochs=3))
    divergence = unlearning.objectives.divergence("original")

    def away(part):
        new, _ = task.apply(updated, part, None, False)
        old, _ = task.apply(variables, part, None, False)
        return float(divergence(task, new, part, {"original": old}).mean())

    assert away(request.forget) > 1.0 > 5 * away(request.retain)




@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: unlearning.boundary_shrink(tx, radius=0.0), "radius must be > 0"),
        (lambda tx: unlearning.unsir(tx, num_noise=0), "num_noise must be >= 1"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax.sgd(0.1))
