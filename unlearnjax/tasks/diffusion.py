"""Diffusion: a network that denoises, its loss, and the images it draws."""

import functools

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax import data as data_lib
from unlearnjax import diffusion as diffusion_lib
from unlearnjax.diffusion.denoiser import validate
from unlearnjax.diffusion.samplers import Sampler
from unlearnjax.tasks import draws
from unlearnjax.tasks.adapters import Model, columns
from unlearnjax.types import Array, Batch, Outputs, Task, Variables


def diffusion(
    model: Model,
    process: diffusion_lib.Process,
    *,
    condition_dropout: float = 0.1,
    num_draws: int = 16,
    sampler: Sampler | None = None,
    guidance: float = 2.0,
) -> Task:
    """A Task whose loss is the mean squared error of what a network predicts of noised images.

    Columns: `inputs` `[B, H, W, C]`, in [-1, 1] where the process clips, and `condition`: as
    `process.null` is, whole numbers `[B]` up to that or tokens of prompts `[B, L]`; `targets` are
    read by nobody. `draw` adds `time` `[B]` and `noise` `[B, H, W, C]`, and in training makes some
    conditions null. Where there is a column `noised`, it is x_t as it stands, with its `time`; no
    images are then needed for outputs.

    Outputs: 'prediction' in the process's parametrisation, 'noise', the same said as noise,
    'noised' and 'time'; where x_t was made of images, 'target', what should have been predicted.

    Loss: `mean (prediction - target)^2` over an image. It is not a negative log-likelihood: where
    curvature is read from it, that is of this loss. Who predicts 0 loses 1 for noise, and the mean
    over times of `ab + (1 - ab) E x_0^2` for v.

    Divergence: the mean squared difference of the predictions, in the process's parametrisation, so
    that it weighs times as the loss does: of a reference that says the truth it is the loss.

    Metric: `noise_error`, the mean squared error in noise, for any parametrisation.

    Generation: 'images' `[B, H, W, C]` for a batch's `condition`; the noise of each follows from
    the rng and its `index` (its place, where it has none).

    Args:
      model: of columns 'noised', 'time' and 'condition', with output 'prediction':
        `from_linen(models.DiT(10), ("noised", "time", "condition"))`.
      process: how images become noise.
      condition_dropout: in [0, 1], how often a condition is null in training.
      num_draws: of time and noise that evaluation averages, at least 1; draw k of K has a time from
        the k-th part of all.
      sampler: default `diffusion.ddim(process)`, its 25 steps or all times if there are fewer.
      guidance: of generation, see `diffusion.guided`.

    References:
      Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020; Ho and Salimans,
      "Classifier-Free Diffusion Guidance", 2022.
    """
    validate(process)
    checks.share(condition_dropout=condition_dropout)
    checks.whole(num_draws=num_draws)
    checks.at_least(1, num_draws=num_draws)
    checks.finite(guidance=guidance)
    schedule, steps = process.schedule, process.schedule.num_steps
    sampler = diffusion_lib.ddim(process, min(25, steps)) if sampler is None else sampler

    def draw(rng: Array, example: Batch, train: bool) -> Batch:
        of_time, of_noise, of_condition = jax.random.split(rng, 3)
        drawn = {}
        if "inputs" in example and example["inputs"].shape != tuple(process.shape):
            raise ValueError(
                f"inputs must be of the process's shape {tuple(process.shape)}, got "
                f"{example['inputs'].shape}"
            )
        if "noised" not in example:
            low, high = example["stratum"]
            at = low + (high - low) * jax.random.uniform(of_time)
            drawn["time"] = jnp.minimum((at * steps).astype(jnp.int32), steps - 1)
            drawn["noise"] = jax.random.normal(of_noise, process.shape)
        if "condition" in example:
            condition = example["condition"]
            (blank,) = diffusion_lib.null_like(condition[None], process.null)
            if train:
                dropped = jax.random.bernoulli(of_condition, condition_dropout)
                drawn["condition"] = jnp.where(dropped, blank, condition)
        return {**example, **drawn}

    def init(rng: Array, batch: Batch) -> Variables:
        number = data_lib.num_examples(batch)
        noised = jnp.zeros((number, *process.shape), jnp.float32)
        time = jnp.zeros(number, jnp.int32)
        blank = jnp.zeros((number, *jnp.shape(process.null)), jnp.int32)
        return model.init(rng, {**batch, "noised": noised, "time": time, "condition": blank})

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        seen = batch if "noised" in batch else {**batch, **noised_from(batch)}
        noised, time = columns(seen, ("noised", "time"))
        outputs, updated = model.apply(variables, seen, rng, train)
        (prediction,) = columns(outputs, ("prediction",))
        kinds = process.prediction, "epsilon"
        noise = diffusion_lib.convert(schedule, prediction, noised, time, *kinds)
        told = {name: seen[name] for name in ("noised", "time", "target") if name in seen}
        return {**outputs, "noise": noise, **told}, updated

    def noised_from(batch: Batch) -> Batch:
        x0, noise, time = columns(batch, ("inputs", "noise", "time"))
        checks.floating(inputs=x0)
        of = schedule, x0, noise, time
        target = diffusion_lib.velocity(*of) if process.prediction == "v" else noise
        return {"noised": diffusion_lib.add_noise(*of), "target": target}

    def loss(outputs: Outputs, batch: Batch) -> Array:
        del batch
        if "target" not in outputs:
            raise ValueError("the loss needs images: 'inputs' in the batch, not x_t as 'noised'")
        return _mean_squared(outputs["prediction"] - outputs["target"])

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        return {"noise_error": _mean_squared(outputs["noise"] - columns(batch, ("noise",))[0])}

    def divergence(outputs: Outputs, reference: Outputs, batch: Batch, temperature: float = 1.0):
        del batch
        if temperature != 1:
            raise ValueError(f"temperature must be 1 where noise is predicted, got {temperature}")
        return _mean_squared(outputs["prediction"] - reference["prediction"])

    def generate(task: Task, variables: Variables, rng: Array, batch: Batch) -> Outputs:
        (condition,) = columns(batch, ("condition",))
        index = batch.get("index", jnp.arange(condition.shape[0]))
        keys = draws.keyed({"index": index}, rng)["key"]
        denoise = diffusion_lib.guided(diffusion_lib.denoiser(task), guidance, process.null)
        start = diffusion_lib.noise_of(keys, process.shape)
        predict = functools.partial(denoise, variables)
        return {"images": sampler(keys, predict, start, condition)}

    return Task(init, apply, loss, metrics, draw, divergence, num_draws, generate)


def _mean_squared(difference: Array) -> Array:
    """`[B]`, over all axes but the first."""
    return jnp.mean(difference**2, axis=tuple(range(1, difference.ndim)))
