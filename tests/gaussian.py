"""Gaussian data, of which the exact denoiser is known.

Images of independent pixels N(mu, s^2): `E[noise | x_t]` is linear in x_t, and the flow of the
probability to noise and back keeps quantiles.
"""

import jax.numpy as jnp
import numpy as np

from unlearnjax import diffusion


def predict(process, mu, s):
    """The exact denoiser; condition c shifts the mean by c."""

    def predicted(noised, time, condition):
        a, b = (c[:, None, None, None] for c in diffusion.coefficients(process.schedule, time))
        mean = mu + condition[:, None, None, None]
        return b * (noised - a * mean) / (a**2 * s**2 + b**2)

    return predicted


def start_of(process, mu, s, quantiles):
    """Where at the last time an image of standard scores `quantiles` comes from."""
    alpha = process.schedule.alphas_bar[-1]
    return jnp.asarray(np.sqrt(alpha) * mu + np.sqrt(alpha * s**2 + 1 - alpha) * quantiles)
