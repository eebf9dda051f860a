"""Going on training on the retain set: all layers, the last k, or the last k started afresh."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from unlearnjax import data as data_lib
from unlearnjax import tasks, training
from unlearnjax.types import Request, Task, Unlearner, Variables
from unlearnjax.unlearning import objectives, transforms
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.descend import Transform, descend, init_nothing


def finetune(tx: Transform, *, num_epochs: int = 10, batch_size: int = 128) -> Unlearner:
    """Minimises the task's loss on the retain set from the trained model, in training mode.

    Args:
      tx: optax transformation; its learning rate is the method's main hyper-parameter.
      num_epochs: passes over the retain set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs retain data and labels.

    References:
      The baseline of Golatkar et al., "Eternal Sunshine of the Spotless Net", CVPR 2020.
    """
    objective = objectives.combine(retain=[(1.0, objectives.task_loss)], train=True)
    return descend(objective, tx, over="retain", num_epochs=num_epochs, batch_size=batch_size)


def finetune_last(
    tx: optax.GradientTransformation,
    *,
    layers: int | Sequence[str] = 1,
    num_epochs: int = 10,
    batch_size: int = 128,
) -> Unlearner:
    """CF-k: fine-tunes the last k layers only; the others stay bit-equal.

    Args:
      tx, num_epochs, batch_size: see `finetune`.
      layers: k, counting `tasks.layer_names`; or names, see `transforms.layer_mask`.

    Returns:
      An unlearner that needs retain data and labels.

    Raises:
      ValueError: for k < 1, at the request for more layers than there are or names unknown.

    References:
      Goel et al., "Towards Adversarial Evaluations for Inexact Machine Unlearning", 2022.
    """
    if isinstance(layers, int) and layers < 1:
        raise ValueError(f"layers must be >= 1, got {layers}")

    def only_last(rng, task: Task, variables: Variables, request: Request):
        del rng
        return transforms.masked(tx, last_layers(task, variables, request.retain, layers))

    return finetune(only_last, num_epochs=num_epochs, batch_size=batch_size)


def retrain_last(
    tx: optax.GradientTransformation,
    *,
    layers: int | Sequence[str] = 1,
    num_epochs: int = 10,
    batch_size: int = 128,
) -> Unlearner:
    """EU-k: draws the last k layers afresh, then trains them, the others frozen.

    Args, returns, raises and references: see `finetune_last`.
    """

    def update(rng, task, variables, memory, request: Request):
        mask = last_layers(task, variables, request.retain, layers)
        fresh = training.init_variables(task, request.retain, rng)["params"]
        params = jax.tree.map(
            lambda m, new, old: jnp.where(m > 0, new, old), mask, fresh, variables["params"]
        )
        return {**variables, "params": params}, memory

    reset = Unlearner(init_nothing, update, frozenset({"retain", "inputs", "labels"}))
    return chain(
        reset, finetune_last(tx, layers=layers, num_epochs=num_epochs, batch_size=batch_size)
    )


def last_layers(task: Task, variables: Variables, data, layers: int | Sequence[str]):
    """Mask of the parameters of the last `layers` layers, or of the named ones."""
    if not isinstance(layers, int):
        return transforms.layer_mask(variables["params"], layers)
    example = data_lib.take(data, jnp.zeros(1, jnp.int32))
    called = tasks.layer_names(task, variables, example)
    if layers > len(called):
        raise ValueError(f"layers must be at most the model's {len(called)}, got {layers}")
    return transforms.layer_mask(variables["params"], called[-layers:])
