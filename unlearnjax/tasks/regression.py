"""Regression of one number: a model, squared error, and the per-example numbers audits read."""

import chex
import jax.numpy as jnp

from unlearnjax.tasks.adapters import Model
from unlearnjax.types import Array, Batch, Outputs, Task


def regression(model: Model) -> Task:
    """A Task with half the squared error on `targets` `[B]` (float): a unit-variance Gaussian.

    Divergence: half the squared distance of the predictions, `KL(N(reference, 1) || N(output, 1))`.

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

    def divergence(outputs: Outputs, reference: Outputs, batch: Batch, temperature: float = 1.0):
        del batch
        return half_squared_distance(outputs["logits"], reference["logits"], temperature)

    return Task(model.init, model.apply, loss, metrics, divergence=divergence)


def half_squared_distance(means: Array, reference: Array, temperature: float) -> Array:
    """`[B]`: `KL(N(reference, I) || N(means, I))`, the divergence of predicted means `[B, ...]`.

    Raises:
      ValueError: for a temperature other than 1, which a Gaussian of unit variance has none of.
    """
    if temperature != 1:
        raise ValueError(f"temperature must be 1 where means are predicted, got {temperature}")
    return jnp.sum((means - reference) ** 2, axis=tuple(range(1, means.ndim))) / 2
