"""Variational autoencoder of vectors, as density model of a network's features."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax.types import Array


class VAE(nn.Module):
    """One hidden layer each way, Gaussian latents.

    Called as `module(inputs, noise, train=...)` on `[B, D]` and standard normal noise
    `[B, latent]`, see `tasks.autoencoding`. Without noise latents are drawn from the rng stream
    'sample' while training and are their mean otherwise.

    Attributes:
      latent: dimensions of the latent space.
      hidden: width of encoder and decoder.
    """

    latent: int = 8
    hidden: int = 64

    @nn.compact
    def __call__(
        self, inputs: Array, noise: Array | None = None, train: bool = False
    ) -> dict[str, Array]:
        encoded = nn.relu(nn.Dense(self.hidden)(inputs))
        mean = nn.Dense(self.latent)(encoded)
        log_variance = nn.Dense(self.latent)(encoded)
        if noise is None and train:
            noise = jax.random.normal(self.make_rng("sample"), mean.shape)
        latent = mean if noise is None else mean + jnp.exp(log_variance / 2) * noise
        decoded = nn.relu(nn.Dense(self.hidden)(latent))
        reconstruction = nn.Dense(inputs.shape[-1])(decoded)
        return {"reconstruction": reconstruction, "mean": mean, "log_variance": log_variance}
