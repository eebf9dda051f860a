"""Retraining from scratch on the retain set: exact, and what every other method is measured by."""

import jax.numpy as jnp
import optax

from unlearnjax import data as data_lib
from unlearnjax import training
from unlearnjax.types import Request, Unlearner
from unlearnjax.unlearning.descend import init_nothing


def retrain(
    tx: optax.GradientTransformation,
    *,
    num_epochs: int,
    batch_size: int,
) -> Unlearner:
    """Trains a fresh model on the retain set and returns it.

    Args:
      tx, num_epochs, batch_size: as the original was trained, see `training.train`.

    Returns:
      An unlearner that needs retain data and labels. Cost: a whole training run.
    """

    def update(rng, task, variables, memory, request: Request):
        indices = jnp.arange(data_lib.num_examples(request.retain))
        state, _ = training.train(
            task,
            tx,
            request.retain,
            indices,
            rng,
            num_epochs=num_epochs,
            batch_size=batch_size,
            start=training.carried(task, request.retain, variables),
        )
        return state.variables, memory

    return Unlearner(init_nothing, update, frozenset({"retain", "inputs", "labels"}))
