"""From noise to images: DDPM, DDIM and EDM's Heun, each one compiled loop.

A sampler is a pure function of a denoiser whose model is given, noise, conditions and keys. Each
example has its own key, so that nothing depends on the batch or the devices.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.diffusion import schedules
from unlearnjax.diffusion.denoiser import Process, noise_of
from unlearnjax.types import Array

# (x_t [B, H, W, C], t [B], condition [B] or [B, L]) -> noise:
# `functools.partial(denoise, variables)`
Predict = Callable[[Array, Array, Array], Array]
# (keys [B], predict, x_T [B, H, W, C], condition [B] or [B, L]) -> x_0 [B, H, W, C]
Sampler = Callable[[Array, Predict, Array, Array], Array]
VARIANCES = ("fixedlarge", "fixedsmall")


class Steps(NamedTuple):
    """The loop of a sampler, open to those who stop on the way.

    Attributes:
      times: `[n]` int32, decreasing; `times[i]` is the time of `x` before step i.
      step: `(keys, predict, x, condition, i) -> x` after step i; after step n-1 it is x_0.
    """

    times: np.ndarray
    step: Callable[[Array, Predict, Array, Array, Array], Array]


def ddim_steps(process: Process, num_steps: int = 25, eta: float = 0.0) -> Steps:
    """The steps of `ddim`."""
    times = _spaced(process, num_steps)
    checks.share(eta=eta)
    before = process.schedule.alphas_bar[times]
    after = np.append(before[1:], 1.0)
    variance = eta**2 * (1 - after) / (1 - before) * (1 - before / after)
    direction = np.sqrt(np.maximum(1 - after - variance, 0))
    # The last step adds no noise: there `after` is 1, and so is the variance 0.
    return _ancestral(process, times, np.sqrt(after), direction, np.sqrt(variance))


def ddim(process: Process, num_steps: int = 25, eta: float = 0.0) -> Sampler:
    """Denoising diffusion implicit models, on n of the T times, evenly spaced and from T-1 on.

    `x' = sqrt(ab') x_0 + sqrt(1 - ab' - var) noise + sqrt(var) z`, of the predicted x_0 and noise.

    Args:
      process: see there; where it clips x_0, the noise is that of the clipped one.
      num_steps: n, in [1, T]. Passes of the denoiser.
      eta: in [0, 1]. 0 draws nothing; 1 on all T times is DDPM's with the small variance.

    References:
      Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021.
    """
    return _sampler(ddim_steps(process, num_steps, eta))


def ddpm(process: Process, variance: str = "fixedlarge", num_steps: int | None = None) -> Sampler:
    """Ancestral sampling: the mean of `q(x_{t-1} | x_t, x_0)` at the predicted x_0, plus noise.

    Args:
      process: see there.
      variance: of a step: 'fixedlarge' is beta_t, 'fixedsmall' that of the posterior,
        `beta_t (1 - ab_{t-1}) / (1 - ab_t)`. The last step draws nothing.
      num_steps: n, in [1, T], default T; with fewer the steps are those between the times left.

    References:
      Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020, eq. 7.
    """
    checks.one_of(variance=(variance, VARIANCES))
    times = _spaced(process, process.schedule.num_steps if num_steps is None else num_steps)
    before = process.schedule.alphas_bar[times]
    after = np.append(before[1:], 1.0)
    beta = 1 - before / after
    posterior = (1 - after) / (1 - before) * beta
    # x_t of the mean, written as image and noise, leaves sqrt(ab') of the image.
    of_noise = np.sqrt(1 - beta) * (1 - after) / np.sqrt(1 - before)
    drawn = np.sqrt(posterior if variance == "fixedsmall" else beta)
    drawn[-1] = 0
    return _sampler(_ancestral(process, times, np.sqrt(after), of_noise, drawn))


def heun(
    process: Process, num_steps: int = 18, rho: float = 7.0, sigma_max: float | None = None
) -> Sampler:
    """EDM's deterministic sampler of second order.

    Noise levels `(a + i / (n - 1) (b - a))^rho`, of the roots a and b of the largest and smallest,
    then 0; the denoiser is asked at the times between the schedule's own that have them.

    Args:
      process: see there.
      num_steps: n, at least 2. Passes: 2n - 1.
      rho: > 0; larger ones spend more steps at small noise.
      sigma_max: largest noise level, at most the schedule's, its default. A cosine schedule ends at
        20,000, far beyond where images are decided: EDM's is 80.

    References:
      Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS
      2022, algorithm 1 without churn.
    """
    checks.whole(num_steps=num_steps)
    checks.at_least(2, num_steps=num_steps)
    checks.positive(rho=rho)
    alphas = process.schedule.alphas_bar
    smallest, largest = np.sqrt((1 - alphas[[0, -1]]) / alphas[[0, -1]])
    sigma_max = largest if sigma_max is None else sigma_max
    if not smallest < sigma_max <= largest:
        raise ValueError(f"sigma_max must lie in ({smallest:.3g}, {largest:.5g}], got {sigma_max}")
    ends = np.linspace(sigma_max ** (1 / rho), smallest ** (1 / rho), num_steps)
    levels = np.append(ends**rho, 0.0)
    # Passes: (from level i to i+1), then its correction at level i+1, ...; none at level 0.
    at = np.repeat(levels[:-1], 2)[1:]
    change = np.repeat(np.diff(levels), 2)[: 2 * num_steps - 1]
    corrects = np.arange(2 * num_steps - 1) % 2 == 1

    def sample(keys: Array, predict: Predict, start: Array, condition: Array) -> Array:
        del keys

        def evaluation(carry, now):
            x, base, slope = carry
            sigma, change, corrects = now
            level = jnp.full(x.shape[:1], sigma)
            noised, time = schedules.from_edm(process.schedule, x, level)
            noise = predict(noised, time, condition).astype(x.dtype)
            if process.clip is not None:
                clean = jnp.clip(x - sigma * noise, -process.clip, process.clip)
                noise = (x - clean) / sigma
            base = jnp.where(corrects, base, x)
            new = jnp.where(corrects, (slope + noise) / 2, noise)
            return ((base + change * new).astype(x.dtype), base, noise.astype(x.dtype)), None

        scaled = (start * np.sqrt(1 + sigma_max**2)).astype(start.dtype)
        passes = jax.tree.map(jnp.asarray, (at, change, corrects))
        (x, _, _), _ = jax.lax.scan(evaluation, (scaled, scaled, scaled), passes)
        return x

    return sample


def sample_until(steps: Steps) -> Callable[..., tuple[Array, Array]]:
    """Part of the way: `(keys, predict, x_T, condition, count) -> (x_t, t)`, under `stop_gradient`.

    For methods that look at what a model is about to draw.

    Args:
      steps: e.g. `ddim_steps(process)`.

    Returns:
      A function of a sampler's arguments and `count`, a whole number in [0, n-1] that may be
      traced: steps done; others are brought there. It returns `x_t` `[B, H, W, C]` and its time
      `[B]` int32. Cost: `count` passes.
    """
    last = len(steps.times) - 1

    def until(keys: Array, predict: Predict, start: Array, condition: Array, count: Array | int):
        count = jnp.clip(jnp.asarray(count, jnp.int32), 0, last)
        step = lambda i, x: steps.step(keys, predict, x, condition, i)
        x = jax.lax.fori_loop(0, count, step, start)
        time = jnp.full(start.shape[:1], jnp.asarray(steps.times, jnp.int32)[count])
        return jax.lax.stop_gradient((x, time))

    return until


def trajectory(steps: Steps) -> Callable[[Array, Predict, Array, Array], tuple[Array, Array]]:
    """All of the way: `(keys, predict, x_T, condition) -> (x_t [n, B, H, W, C], t [n, B])`.

    The n exact pairs of one run, x_T first and x_0 left out, under `stop_gradient`.

    Cost: n - 1 passes.
    """

    def all_of(keys: Array, predict: Predict, start: Array, condition: Array):
        def step(x, i):
            new = steps.step(keys, predict, x, condition, i)
            return new, new

        numbers = jnp.arange(len(steps.times) - 1)
        _, later = jax.lax.scan(step, start, numbers)
        times = jnp.repeat(jnp.asarray(steps.times, jnp.int32)[:, None], start.shape[0], axis=1)
        return jax.lax.stop_gradient((jnp.concatenate([start[None], later]), times))

    return all_of


def _spaced(process: Process, num_steps: int) -> np.ndarray:
    """n times from T-1 down, evenly spaced up to rounding; the last one's step leads to x_0."""
    total = process.schedule.num_steps
    checks.whole(num_steps=num_steps)
    checks.within(1, total, num_steps=num_steps)
    return np.round(np.arange(num_steps, 0, -1) * total / num_steps).astype(np.int32) - 1


def _ancestral(process: Process, times, image, noise, drawn) -> Steps:
    """Steps `x' = image x_0 + noise e + drawn z`, each coefficient `[n]`."""
    signal = np.sqrt(process.schedule.alphas_bar[times])
    deviation = np.sqrt(1 - process.schedule.alphas_bar[times])
    stochastic = bool(drawn.any())
    table = np.stack([signal, deviation, image, noise, drawn], axis=1)

    def step(keys: Array, predict: Predict, x: Array, condition: Array, i: Array) -> Array:
        a, s, of_image, of_noise, of_drawn = jnp.asarray(table)[i]
        time = jnp.full(x.shape[:1], jnp.asarray(times)[i])
        e = predict(x, time, condition).astype(x.dtype)
        clean = (x - s * e) / a
        if process.clip is not None:
            clean = jnp.clip(clean, -process.clip, process.clip)
            e = (x - a * clean) / s
        new = of_image * clean + of_noise * e
        if stochastic:
            new += of_drawn * noise_of(keys, x.shape[1:], i + 1)
        return new.astype(x.dtype)

    return Steps(times, step)


def _sampler(steps: Steps) -> Sampler:
    def sample(keys: Array, predict: Predict, start: Array, condition: Array) -> Array:
        step = lambda x, i: (steps.step(keys, predict, x, condition, i), None)
        return jax.lax.scan(step, start, jnp.arange(len(steps.times)))[0]

    return sample
