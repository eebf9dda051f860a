"""Relearning: how fast forgotten data comes back under fine-tuning on it."""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, Task, Variables

METRICS = ("loss", "accuracy")


def relearn_time(
    task: Task,
    variables: Variables,
    forget: Data,
    target: float | Array,
    tx: optax.GradientTransformation,
    rng: Array,
    *,
    metric: str = "loss",
    max_steps: int = 200,
    batch_size: int = 64,
) -> Array:
    """Steps of fine-tuning on the forget set until it is known again.

    Known: mean loss at most `target`, or, for `metric='accuracy'`, accuracy at least `target`.
    `max_steps` where it is not reached. In evaluation mode.

    Needs: an oracle, better several. Value of a perfect unlearner, and null value: the oracle's
    count; fewer means that traces are left, more is no merit. Cost: as many steps as it takes, each
    with an evaluation of the forget set.

    Args:
      task, variables: the unlearned model.
      forget: the forget set.
      target: e.g. the original's value on it, less a margin.
      tx: transformation to relearn with.
      rng: key of the shuffles.
      metric: 'loss' or 'accuracy'.
      max_steps: bound, at least 1.
      batch_size: at least 1, capped at the size of the forget set.

    Raises:
      ValueError: for an unknown `metric`, an empty forget set, a `target` that is NaN, or
        `max_steps` or `batch_size` below 1.

    References:
      Golatkar et al., "Forgetting Outside the Box", ECCV 2020 (relearn time).
    """
    checks.one_of(metric=(metric, METRICS))
    n = data_lib.num_examples(forget)
    checks.at_least(1, max_steps=max_steps, batch_size=batch_size, **{"size of forget": n})
    checks.at_least(-float("inf"), target=target)
    batch_size = min(batch_size, n)
    steps = data_lib.steps_per_epoch(n, batch_size)
    step = training.make_step(training.supervised(task, train=False), tx)
    epochs = jax.random.split(rng, -(-max_steps // steps))
    rows = jax.vmap(lambda key: data_lib.epoch_order(key, jnp.arange(n), batch_size))(epochs)
    rows = rows.reshape(-1, batch_size)

    def known(state):
        values = training.evaluate(task, state.variables, forget)[metric]
        value = values.mean(dtype=jnp.result_type(values, jnp.float32))
        return value <= target if metric == "loss" else value >= target

    def unfinished(carry):
        state, done = carry
        return ~done & (state.step < max_steps)

    def one(carry):
        state, _ = carry
        state, _ = step(state, data_lib.take(forget, rows[state.step]), rng)
        return state, known(state)

    start = training.init_state(variables, tx)
    return jax.lax.while_loop(unfinished, one, (start, known(start)))[0].step


def anamnesis_index(unlearned_time: float, oracle_time: float) -> float:
    """Relearn time of the unlearned model by that of the oracle.

    Needs: relearn times of the model and, as a mean, of oracles. Value of a perfect unlearner: 1 in
    the mean of many oracles; null value: that of one oracle. Below 1 the model relearns faster than
    one that never saw the data; NaN where the oracle needs no step.

    References:
      Chundawat et al., "Zero-Shot Machine Unlearning", TIFS 2023; Tarun et al., "Deep Regression
      Unlearning", ICML 2023.

    Examples:
      >>> anamnesis_index(unlearned_time=5, oracle_time=20)  # learns it again four times as fast
      0.25
    """
    return float(unlearned_time / oracle_time) if oracle_time > 0 else float("nan")
