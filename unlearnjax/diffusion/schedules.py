"""How images become noise: variance schedules, and what a network may predict about a noised image.

`x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) noise`. Times are 0 .. T-1; where a sampler asks for times in
between, the logarithm of the noise level is interpolated.

Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020; Salimans and Ho,
"Progressive Distillation", ICLR 2022 (velocity); Karras et al., "Elucidating the Design Space of
Diffusion-Based Generative Models", NeurIPS 2022 (EDM coordinates).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.types import Array

# What is said of a noised image: its noise, the image, or the velocity, see `velocity`.
KINDS = ("epsilon", "x0", "v")


class Schedule(NamedTuple):
    """How much of the image is left at each time.

    Attributes:
      alphas_bar: `[T]`, the signal's share of the variance, decreasing, in (0, 1). On the host and
        in float64: a constant of what is compiled, in the precision of that.
    """

    alphas_bar: np.ndarray

    @property
    def num_steps(self) -> int:
        """T."""
        return self.alphas_bar.shape[0]


def linear(num_steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Schedule:
    """Variances of the single steps rise linearly from `first` to `last`, in (0, 1): DDPM's."""
    _validate(num_steps, first=first, last=last)
    return _from_betas(np.linspace(first, last, num_steps))


def scaled_linear(num_steps: int = 1000, first: float = 8.5e-4, last: float = 0.012) -> Schedule:
    """Their square roots rise linearly: that of Stable Diffusion 1.x."""
    _validate(num_steps, first=first, last=last)
    return _from_betas(np.linspace(first**0.5, last**0.5, num_steps) ** 2)


def cosine(num_steps: int = 1000, offset: float = 0.008) -> Schedule:
    """`ab_t` falls as a squared cosine, a single step takes at most 0.999 of what is left.

    Args:
      num_steps: T, at least 2.
      offset: >= 0, of the time, so that the first steps are not too small.

    References:
      Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021.
    """
    _validate(num_steps)
    checks.at_least(0, offset=offset)
    angle = (np.arange(num_steps + 1) / num_steps + offset) / (1 + offset) * np.pi / 2
    left = np.cos(angle) ** 2
    return _from_betas(np.minimum(1 - left[1:] / left[:-1], 0.999))


def coefficients(schedule: Schedule, time: Array) -> tuple[Array, Array]:
    """`sqrt(ab_t)` and `sqrt(1 - ab_t)` at times `[B]`: how much image and noise there is in `x_t`.

    Args:
      schedule: of T times.
      time: whole, or floating for times in between; out of 0 .. T-1 both are NaN.
    """
    if jnp.issubdtype(time.dtype, jnp.integer):
        shares = np.stack([schedule.alphas_bar, 1 - schedule.alphas_bar])
        table = jnp.asarray(np.sqrt(shares)).at[:, time]
        return tuple(table.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False))
    levels = _log_levels(schedule)
    grid = jnp.arange(schedule.num_steps, dtype=levels.dtype)
    sigma = jnp.exp(jnp.interp(time, grid, levels, left=jnp.nan, right=jnp.nan))
    signal = 1 / jnp.sqrt(1 + sigma**2)
    return signal, sigma * signal


def noise_level(schedule: Schedule, time: Array) -> Array:
    """EDM's `sigma = sqrt((1 - ab_t) / ab_t)` at times `[B]`."""
    signal, noise = coefficients(schedule, time)
    return noise / signal


def time_of(schedule: Schedule, sigma: Array) -> Array:
    """The time, in general between two whole ones, of noise levels `[B]`; inverse of the above."""
    levels = _log_levels(schedule)
    return jnp.interp(jnp.log(sigma), levels, jnp.arange(levels.shape[0], dtype=levels.dtype))


def add_noise(schedule: Schedule, x0: Array, noise: Array, time: Array) -> Array:
    """`x_t` `[B, ...]` of images and noise `[B, ...]` at times `[B]`, in the images' type."""
    signal, deviation = _beside(schedule, time, x0)
    return (signal * x0 + deviation * noise).astype(x0.dtype)


def velocity(schedule: Schedule, x0: Array, noise: Array, time: Array) -> Array:
    """`v = sqrt(ab_t) noise - sqrt(1 - ab_t) x_0` `[B, ...]`, in the images' type."""
    signal, deviation = _beside(schedule, time, x0)
    return (signal * noise - deviation * x0).astype(x0.dtype)


def convert(
    schedule: Schedule, value: Array, noised: Array, time: Array, source: str, target: str
) -> Array:
    """What is said of `x_t` in one of `KINDS`, said in another.

    Args:
      schedule: the process.
      value: `[B, ...]`, of kind `source`.
      noised: `x_t` `[B, ...]`.
      time: `[B]`.
      source, target: 'epsilon', 'x0' or 'v'; one kind is left as it is, bit for bit.

    Returns:
      `[B, ...]` in the type of `value`.

    Raises:
      ValueError: for an unknown kind.
    """
    checks.one_of(source=(source, KINDS), target=(target, KINDS))
    if source == target:
        return value
    a, s = _beside(schedule, time, noised)
    converted = {
        ("epsilon", "x0"): lambda: (noised - s * value) / a,
        ("epsilon", "v"): lambda: (value - s * noised) / a,
        ("x0", "epsilon"): lambda: (noised - a * value) / s,
        ("x0", "v"): lambda: (a * noised - value) / s,
        ("v", "epsilon"): lambda: s * noised + a * value,
        ("v", "x0"): lambda: a * noised - s * value,
    }[source, target]()
    return converted.astype(value.dtype)


def to_edm(schedule: Schedule, noised: Array, time: Array) -> tuple[Array, Array]:
    """`x_t / sqrt(ab_t) = x_0 + sigma noise` and `sigma` `[B]`: EDM's coordinates of `x_t`."""
    signal, _ = _beside(schedule, time, noised)
    return (noised / signal).astype(noised.dtype), noise_level(schedule, time)


def from_edm(schedule: Schedule, x: Array, sigma: Array) -> tuple[Array, Array]:
    """`x_t` and `t` of EDM's coordinates, images `[B, ...]` and noise levels `[B]`."""
    scale = jnp.sqrt(1 + sigma**2).reshape(-1, *[1] * (x.ndim - 1))
    return (x / scale).astype(x.dtype), time_of(schedule, sigma)


def _from_betas(betas: np.ndarray) -> Schedule:
    return Schedule(np.cumprod(1 - betas))


def _beside(schedule: Schedule, time: Array, images: Array) -> tuple[Array, Array]:
    """The coefficients `[B, 1, ..., 1]`."""
    shape = (-1, *[1] * (images.ndim - 1))
    return tuple(c.reshape(shape) for c in coefficients(schedule, time))


def _log_levels(schedule: Schedule) -> Array:
    """`log sigma` `[T]`, increasing."""
    alphas = schedule.alphas_bar
    return jnp.asarray((np.log1p(-alphas) - np.log(alphas)) / 2)


def _validate(num_steps: int, **betas: float) -> None:
    checks.whole(num_steps=num_steps)
    checks.at_least(2, num_steps=num_steps)
    checks.open_share(**betas)
