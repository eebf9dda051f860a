"""Autoencoding: a variational autoencoder and its evidence bound."""

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.tasks.adapters import Model
from unlearnjax.tasks.regression import half_squared_distance
from unlearnjax.types import Array, Batch, Outputs, Task


def autoencoding(model: Model, latent: int | None = None, num_draws: int = 16) -> Task:
    """A Task with the negative evidence lower bound of inputs `[B, D]`, in nats, up to a constant.

    `|x - x'|^2 / 2 + KL(q(z|x) || N(0, I))`: Gaussian decoder of unit variance. No targets.

    Divergence: half the squared distance of the reconstructions.

    Metric: `squared_error`, mean over the D dimensions.

    Args:
      model: outputs 'reconstruction' `[B, D]`, 'mean' and 'log_variance' `[B, Z]`.
      latent: Z, if the model is to take the noise of its latents from the column `noise` `[B, Z]`,
        which is then drawn for each example: `from_linen(module, ("inputs", "noise"))`. `None`: it
        draws for itself while training, and evaluation reconstructs from the mean.
      num_draws: of noise that evaluation averages, at least 1.

    References:
      Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
    """

    checks.at_least(1, num_draws=num_draws, latent=1 if latent is None else latent)

    def draw(rng: Array, example: Batch, train: bool) -> Batch:
        del train
        return {**example, "noise": jax.random.normal(rng, (latent,))}

    def loss(outputs: Outputs, batch: Batch) -> Array:
        error = jnp.sum((outputs["reconstruction"] - batch["inputs"]) ** 2, axis=-1)
        mean, log_variance = outputs["mean"], outputs["log_variance"]
        to_prior = jnp.sum(jnp.exp(log_variance) + mean**2 - 1 - log_variance, axis=-1)
        return (error + to_prior) / 2

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        return {"squared_error": jnp.mean((outputs["reconstruction"] - batch["inputs"]) ** 2, -1)}

    def divergence(outputs: Outputs, reference: Outputs, batch: Batch, temperature: float = 1.0):
        del batch
        given = outputs["reconstruction"], reference["reconstruction"]
        return half_squared_distance(*given, temperature)

    own = {} if latent is None else {"draw": draw, "num_draws": num_draws}
    return Task(model.init, model.apply, loss, metrics, divergence=divergence, **own)
