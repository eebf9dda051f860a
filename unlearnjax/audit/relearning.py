"""Relearning: how fast forgotten data comes back under fine-tuning on it."""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import data as data_lib
from unlearnjax import training
from unlearnjax.types import Array, Data, Task, Variables


def relearn_time(
    task: Task,
    variables: Variables,
    forget: Data,
    target_loss: float | Array,
    tx: optax.GradientTransformation,
    rng: Array,
    *,
    max_steps: int = 200,
    batch_size: int = 64,
) -> Array:
    """Steps of fine-tuning on the forget set until its mean loss is at most `target_loss`.

    The ideal is the oracle's; fewer means that traces are left. `max_steps` where the loss is not
    reached.
    Cost: `max_steps` steps, an evaluation of the forget set each.

    Args:
      task, variables: the unlearned model.
      forget: the forget set.
      target_loss: e.g. the original's loss on it, and a margin.
      tx: transformation to relearn with.
      rng: key of the shuffles.
      max_steps: bound.
      batch_size: capped at the size of the forget set.

    References:
      Golatkar et al., "Forgetting Outside the Box", ECCV 2020 (relearn time).
    """
    n = data_lib.num_examples(forget)
    batch_size = min(batch_size, n)
    steps = data_lib.steps_per_epoch(n, batch_size)
    step = training.make_step(training.supervised(task, train=False), tx)
    epochs = jax.random.split(rng, -(-max_steps // steps))
    rows = jax.vmap(lambda key: data_lib.epoch_order(key, jnp.arange(n), batch_size))(epochs)

    def one(state, row):
        loss = training.evaluate(task, state.variables, forget)["loss"].mean()
        state, _ = step(state, data_lib.take(forget, row), rng)
        return state, loss <= target_loss

    start = training.init_state(variables, tx)
    _, reached = jax.lax.scan(one, start, rows.reshape(-1, batch_size)[:max_steps])
    return jnp.where(reached.any(), jnp.argmax(reached), max_steps)


def anamnesis_index(unlearned_time: float, oracle_time: float) -> float:
    """Relearn time of the unlearned model by that of the oracle.

    Ideal 1; below 1 the model relearns faster than one that never saw the data; NaN where the
    oracle needs no step.

    References:
      Chundawat et al., "Zero-Shot Machine Unlearning", TIFS 2023; Tarun et al., "Deep Regression
      Unlearning", ICML 2023.
    """
    return float(unlearned_time / oracle_time) if oracle_time > 0 else float("nan")
