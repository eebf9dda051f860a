"""Autoencoding: a variational autoencoder and its evidence bound."""

import jax.numpy as jnp

from unlearnjax.tasks.adapters import Model
from unlearnjax.types import Array, Batch, Outputs, Task


def autoencoding(model: Model) -> Task:
    """A Task with the negative evidence lower bound of inputs `[B, D]`, in nats, up to a constant.

    `|x - x'|^2 / 2 + KL(q(z|x) || N(0, I))`: Gaussian decoder of unit variance. No targets.

    Metric: `squared_error`, mean over the D dimensions.

    Args:
      model: outputs 'reconstruction' `[B, D]`, 'mean' and 'log_variance' `[B, Z]`.

    References:
      Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    """

    def loss(outputs: Outputs, batch: Batch) -> Array:
        error = jnp.sum((outputs["reconstruction"] - batch["inputs"]) ** 2, axis=-1)
        mean, log_variance = outputs["mean"], outputs["log_variance"]
        divergence = jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1)
        return (error + divergence) / 2

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        return {"squared_error": jnp.mean((outputs["reconstruction"] - batch["inputs"]) ** 2, -1)}

    return Task(model.init, model.apply, loss, metrics)
