"""Retraining from scratch on the retain set: exact, and what every other method is measured by."""

import jax.numpy as jnp

from unlearnjax import data as data_lib
from unlearnjax import training
from unlearnjax.training.fit import Training
from unlearnjax.types import Request, Unlearner, Variables
from unlearnjax.unlearning.descend import init_nothing


def retrain(
    tx: Training,
    *,
    num_epochs: int,
    batch_size: int,
    start: Variables | None = None,
) -> Unlearner:
    """Trains a new model on the retain set and returns it.

    Args:
      tx, num_epochs, batch_size: as the original was trained, see `training.train`.
      start: what the original started from, if not afresh, see `training.init_variables`; what the
        given model carries (`training.carried`) is kept anyway.

    Returns:
      An unlearner that needs retain data and labels. Cost: a whole training run.
    """

    def update(rng, task, variables, memory, request: Request):
        indices = jnp.arange(data_lib.num_examples(request.retain))
        kept = training.carried(task, request.retain, variables)
        variables, _ = training.fit(
            training.recipe(task, tx),
            request.retain,
            indices,
            rng,
            num_epochs=num_epochs,
            batch_size=batch_size,
            start={**(start or {}), **kept},
        )
        return variables, memory

    return Unlearner(init_nothing, update, frozenset({"retain", "inputs", "labels"}))


def reinitialise() -> Unlearner:
    """A fresh model in the place of the trained one, which keeps what that carries.

    For methods that teach a student anew: `chain(reinitialise(), ...)`, whose teacher 'original'
    stays the trained model.

    Returns:
      An unlearner that needs the inputs of forget data, for shapes alone.
    """

    def update(rng, task, variables, memory, request: Request):
        data = request.forget
        kept = training.carried(task, data, variables)
        return training.init_variables(task, data, rng, kept), memory

    return Unlearner(init_nothing, update, frozenset({"forget", "inputs"}))
