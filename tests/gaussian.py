"""Gaussian images, of which the exact denoiser is known.

Pixels are independent, N(mu, s^2): `E[noise | x_t]` is linear in x_t, and the flow from noise to
images keeps quantiles.
"""

import jax.numpy as jnp
import numpy as np

from unlearnjax import diffusion


def predict(process, mu, s):
    """The exact denoiser; condition c moves the mean by c."""

    def noise(noised, time, condition):
        a, b = (c[:, None, None, None] for c in diffusion.coefficients(process.schedule, time))
        mean = mu + condition[:, None, None, None]
        return b * (noised - a * mean) / (a**2 * s**2 + b**2)

    return noise


def start_of(process, mu, s, scores):
    """Where at the last time images of these standard scores come from."""
    alpha = process.schedule.alphas_bar[-1]
    return jnp.asarray(np.sqrt(alpha) * mu + np.sqrt(alpha * s**2 + 1 - alpha) * scores)
