import jax
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import audit, training


def test_relearn_time_equals_a_plain_loop(digits):
    forget = {k: v[:40] for k, v in digits.items()}
    task, tx, rng = problems.mlp(), optax.sgd(0.05), jax.random.key(0)
    variables = problems.init(task, digits)
    target = 1.0

    evaluate = jax.jit(lambda v: training.evaluate(task, v, forget)["loss"].mean())

    measured = jax.jit(
        lambda v: audit.relearn_time(task, v, forget, target, tx, rng, max_steps=60, batch_size=40)
    )(variables)
    # Full batches: the order does not matter, so a loop of its own must count the same.
    step = jax.jit(training.make_step(training.supervised(task, train=False), tx))
    state = training.init_state(variables, tx)
    batch = {**forget, "weight": np.ones(40, np.float32)}
    count = 0
    while float(evaluate(state.variables)) > target:
        state, _ = step(state, batch, rng)
        count += 1
    assert 3 < count < 60
    assert abs(int(measured) - count) <= 1  # at the threshold rounding may decide
    assert int(audit.relearn_time(task, state.variables, forget, target, tx, rng)) == 0
    never = audit.relearn_time(task, variables, forget, -1.0, tx, rng, max_steps=5)
    assert int(never) == 5


def test_relearning_by_accuracy_counts_until_it_is_reached(digits):
    forget = {k: v[:60] for k, v in digits.items()}
    task, tx, rng = problems.mlp(), optax.adam(1e-2), jax.random.key(0)
    variables = problems.init(task, digits)

    def steps(target):
        return int(audit.relearn_time(task, variables, forget, target, tx, rng, metric="accuracy"))

    assert 0 < steps(0.5) < steps(0.95) < 200
    assert steps(0.0) == 0 and steps(1.1) == 200
    with pytest.raises(ValueError, match="metric must be one of"):
        audit.relearn_time(task, variables, forget, 0.5, tx, rng, metric="f1")


def test_anamnesis_index():
    assert audit.anamnesis_index(5, 10) == 0.5
    assert audit.anamnesis_index(10, 10) == 1
    assert np.isnan(audit.anamnesis_index(3, 0))
    assert audit.anamnesis_index(0, 4) == pytest.approx(0)
