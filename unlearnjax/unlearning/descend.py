"""One compiled loop for iterative unlearners: an objective, an optax transformation, an update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unlearnjax import data as data_lib
from unlearnjax import training
from unlearnjax.types import Request, Task, Unlearner

# task -> training.step.LossFn
Objective = Callable[[Task], Callable]


def descend(
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    over: str,
    num_epochs: int,
    batch_size: int,
) -> Unlearner:
    """Minimises `objective` over one part of the request, starting from the given model.

    The learning rate is the transformation's; optimizer state starts afresh with every request and
    nothing is remembered between requests.

    Args:
      objective: `task -> loss_fn`, see `training.supervised`.
      tx: optax transformation over the parameters.
      over: 'forget' or 'retain', the part of the request to iterate over.
      num_epochs: passes over that part.
      batch_size: capped at the size of the part, since a forget set may be smaller.

    Returns:
      An unlearner that needs `over` and labels. Cost: `num_epochs` passes over the part.
    """
    if over not in ("forget", "retain"):
        raise ValueError(f"over must be 'forget' or 'retain', got {over!r}")
    if num_epochs < 1:
        raise ValueError(f"num_epochs must be >= 1, got {num_epochs}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")

    def update(rng, task, variables, memory, request: Request):
        part = getattr(request, over)
        n = data_lib.num_examples(part)
        state, _ = training.run_epochs(
            training.make_step(objective(task), tx),
            training.init_state(variables, tx),
            part,
            jnp.arange(n),
            rng,
            num_epochs=num_epochs,
            batch_size=min(batch_size, n),
        )
        return state.variables, memory

    return Unlearner(init_nothing, update, frozenset({over, "labels"}))


def init_nothing(rng: jax.Array, task: Task, variables: Any, data: Any) -> tuple[Any, tuple]:
    """`init` of an unlearner that deploys the trained model as it is and remembers nothing."""
    del rng, task, data
    return variables, ()
