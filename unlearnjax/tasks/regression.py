"""Regression of one number: a model, squared error, and the per-example numbers audits read."""

import chex
import jax.numpy as jnp

from unlearnjax.tasks.adapters import Model
from unlearnjax.types import Array, Batch, Outputs, Task


def regression(model: Model) -> Task:
    """A Task with half the squared error on `targets` `[B]` (float): a unit-variance Gaussian.

    Metrics: `absolute_error`, `squared_error`, `prediction`, in units of the targets.

    Args:
      model: an `(init, apply)` pair whose 'logits' are `[B, 1]`, e.g. any of `models` with
        `num_classes=1`.
    """

    def errors(outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        logits, targets = outputs["logits"], batch["targets"]
        chex.assert_rank([logits, targets], [2, 1])
        chex.assert_axis_dimension(logits, 1, 1)
        return logits[:, 0], logits[:, 0] - targets

    def loss(outputs: Outputs, batch: Batch) -> Array:
        return errors(outputs, batch)[1] ** 2 / 2

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        prediction, error = errors(outputs, batch)
        return {
            "absolute_error": jnp.abs(error),
            "squared_error": error**2,
            "prediction": prediction,
        }

    return Task(model.init, model.apply, loss, metrics)
