"""Distilling a diffusion model into a generator of one step, by the scores of what it draws.

Zhou et al., "Score identity Distillation", ICML 2024 (arXiv 2404.04057).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks, diffusion
from unlearnjax.diffusion import Process
from unlearnjax.types import Array, Batch, Outputs, PyTree, Task, Variables
from unlearnjax.unlearning.diffusion import conditions

# Of the linear schedule of 1,000 steps: where generation starts, and between which two times scores
# are compared.
PUBLISHED_TIMES = (440, 38, 712)


class Times(NamedTuple):
    """Times of a schedule.

    Attributes:
      init: whose noise generation starts from.
      low, high: scores are compared at times in `[low, high)`.
    """

    init: int
    low: int
    high: int


def sid_loss(true: Array, fake: Array, images: Array, alpha: float) -> Array:
    """`mean (f - f') [(f - x) - alpha (f - f')] / omega` over pixels, per example `[B]`.

    `omega = max(mean |f - x|, 1e-5)`, without gradient. With alpha = 1 the bracket is `f' - x`.

    Args:
      true: f `[B, H, W, C]`, the image that the true score sees in the noised x.
      fake: f', the one that the fake score sees.
      images: x.
      alpha: of the part that scores' squared distance has in the loss.

    References:
      Zhou et al., "Score identity Distillation", ICML 2024, equation 23.
    """
    axes = tuple(range(1, images.ndim))
    omega = jax.lax.stop_gradient(jnp.maximum(jnp.abs(true - images).mean(axes), 1e-5))
    apart = true - fake
    return jnp.mean(apart * ((true - images) - alpha * apart), axes) / omega


def times_of(
    process: Process, init: int | None = None, low: int | None = None, high: int | None = None
) -> Times:
    """The given times; each that is `None` is the one with as much noise as the published one has.

    Raises:
      ValueError: for `t_init` outside of 0..T-1, or no whole time in `[t_min, t_max)`.
    """
    linear = diffusion.linear().alphas_bar[list(PUBLISHED_TIMES)]
    levels = lambda alphas: (np.log1p(-alphas) - np.log(alphas)) / 2
    own = np.asarray(process.schedule.alphas_bar)
    same = (
        np.round(np.interp(levels(linear), levels(own), np.arange(len(own)))).astype(int).tolist()
    )
    times = Times(
        *(t if given is None else given for t, given in zip(same, (init, low, high), strict=True))
    )
    last = len(own) - 1
    checks.whole(t_init=times.init, t_min=times.low, t_max=times.high)
    if not 0 <= times.init <= last:
        raise ValueError(f"t_init must be in 0..{last}, got {times.init}")
    if not 0 <= times.low < times.high <= last + 1:
        raise ValueError(
            f"t_min must be less than t_max, both in 0..{last + 1}, got {times.low} and "
            f"{times.high}"
        )
    return times


def generated(
    task: Task,
    process: Process,
    t_init: int,
    variables: Variables,
    latent: Array,
    condition: Array,
    rng: Array | None = None,
) -> tuple[Array, Variables]:
    """What a network draws in one step `[B, H, W, C]`, and the variables after it.

    Its prediction of x_0 at the time `t_init`, given the noise of that time alone.

    Args:
      task, process, variables: the network.
      t_init: k.
      latent: z `[B, H, W, C]`, standard normal.
      condition: `[B]`.
      rng: of dropout; `None` is evaluation mode.
    """
    time = jnp.full(condition.shape, t_init, jnp.int32)
    noised = np.sqrt(1 - process.schedule.alphas_bar[t_init]).astype(latent.dtype) * latent
    return _seen(task, process, variables, noised, time, condition, rng)


def fake_score_task(task: Task, process: Process, times: Times) -> Task:
    """The task of the fake score: that of a diffusion model, on what the generator draws."""

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        params = variables["params"]
        generator = {**variables, "params": params["generator"]}
        drawn, _ = generated(
            task, process, times.init, generator, batch["latent"], batch["condition"]
        )
        own = {**variables, "params": params["fake_score"]}
        images = {**batch, "inputs": jax.lax.stop_gradient(drawn)}
        outputs, updated = task.apply(own, images, rng, train)
        return outputs, {**updated, "params": params}

    return task._replace(apply=apply, draw=_draw(process, times))


def generator_task(task: Task, process: Process, times: Times, true: PyTree, alpha: float) -> Task:
    """The task of the generator: its images under both scores, and `sid_loss`.

    Of a batch's `condition`, it draws; the fake score is asked about the same, the true one about
    `anchor.condition`.
    """

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        params = variables["params"]
        condition, time = batch["condition"], batch["time"]
        generator = {**variables, "params": params["generator"]}
        rng = rng if train else None
        images, updated = generated(
            task, process, times.init, generator, batch["latent"], condition, rng
        )
        noised = diffusion.add_noise(process.schedule, images, batch["noise"], time)

        def score(params: PyTree, condition: Array) -> Array:
            frozen = {**variables, "params": jax.lax.stop_gradient(params)}
            return _seen(task, process, frozen, noised, time, condition)[0]

        outputs = {
            "images": images,
            "true": score(true, batch["anchor.condition"]),
            "fake": score(params["fake_score"], condition),
        }
        return outputs, {**updated, "params": params}

    def loss(outputs: Outputs, batch: Batch) -> Array:
        del batch
        return sid_loss(outputs["true"], outputs["fake"], outputs["images"], alpha)

    return task._replace(apply=apply, loss=loss, draw=_draw(process, times))


def one_step_task(task: Task, process: Process, t_init: int) -> Task:
    """The task that draws images in one pass, see `generated`; keys follow `index` as ever."""

    def generate(task: Task, variables: Variables, rng: Array, batch: Batch) -> Outputs:
        condition = batch["condition"]
        index = batch.get("index", jnp.arange(condition.shape[0]))
        latent = diffusion.noise_of(conditions.keys({"index": index}, rng), process.shape)
        images, _ = generated(task, process, t_init, variables, latent, condition)
        bound = math.inf if process.clip is None else process.clip
        return {"images": jnp.clip(images, -bound, bound)}

    return task._replace(generate=generate)


def _seen(
    task: Task,
    process: Process,
    variables: Variables,
    noised: Array,
    time: Array,
    condition: Array,
    rng: Array | None = None,
) -> tuple[Array, Variables]:
    """The image `[B, H, W, C]` that a network sees in x_t, and the variables after it."""
    batch = {"noised": noised, "time": time, "condition": condition}
    outputs, updated = task.apply(variables, batch, rng, rng is not None)
    kinds = process.prediction, "x0"
    image = diffusion.convert(process.schedule, outputs["prediction"], noised, time, *kinds)
    return image, updated


def _draw(process: Process, times: Times):
    """`Task.draw`: a latent to draw from, and time and noise for the scores of what is drawn."""

    def draw(rng: Array, example: Batch, train: bool) -> Batch:
        del train
        of_latent, of_time, of_noise = jax.random.split(rng, 3)
        return {
            **example,
            "latent": jax.random.normal(of_latent, process.shape),
            "time": jax.random.randint(of_time, (), times.low, times.high),
            "noise": jax.random.normal(of_noise, process.shape),
        }

    return draw
