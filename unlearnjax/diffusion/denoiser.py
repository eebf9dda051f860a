"""A trained task as what samplers and methods call: what noise is in this image?"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.diffusion.schedules import Schedule
from unlearnjax.types import Array, Task, Variables

# (variables, x_t [B, H, W, C], t [B], condition [B] or [B, L]) -> predicted noise [B, H, W, C]
Denoise = Callable[[Variables, Array, Array, Array], Array]
# What a network predicts, out of `schedules.KINDS`.
PREDICTIONS = ("epsilon", "v")


class Process(NamedTuple):
    """How images become noise, and what the network says of it: shared by all that use the model.

    It holds strings, so compiled functions close over it. Hand the same one to the task, to
    samplers and to methods: a task does not say which one it has, so that nothing can compare them,
    and with another schedule, prediction or null condition all goes wrong in silence.

    Attributes:
      schedule: of T times.
      shape: `(H, W, C)` of one image.
      null: the condition that says nothing: the model's own, which for `models.DiT` and
        `models.UNet` is the number of classes that they are made for. For models that read prompts
        the L tokens of the empty one, as a tuple; all conditions are then `[B, L]`.
      prediction: what the network predicts, 'epsilon' or 'v'.
      clip: bound of the images' absolute values, to which samplers clip what they predict of them;
        `None` for latents, which have none.
    """

    schedule: Schedule
    shape: tuple[int, int, int]
    null: int | tuple[int, ...]
    prediction: str = "v"
    clip: float | None = 1.0


def validate(process: Process) -> None:
    """Raises `ValueError` for a process that no network can be trained on."""
    checks.one_of(prediction=(process.prediction, PREDICTIONS))
    shape = process.shape if isinstance(process.shape, Sequence) else ()
    tokens = process.null if isinstance(process.null, tuple) else None
    null = {"null": process.null} if tokens is None else _numbered("null", tokens)
    checks.whole(**null, **_numbered("shape", shape))
    checks.at_least(0, **null)
    if tokens == ():
        raise ValueError("null must be a condition, one number or the tokens of a prompt, got ()")
    checks.positive(clip=1 if process.clip is None else process.clip)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape must be (H, W, C), each >= 1, got {process.shape}")


def denoiser(task: Task) -> Denoise:
    """The denoiser of a `tasks.diffusion`, by its `apply` in evaluation mode.

    So what has become of that (`tasks.edit`, `tasks.lora`, an unlearner's `serve`) becomes of what
    is sampled.

    Returns:
      `(variables, x_t, t, condition) -> noise`, in the type of `x_t`. t may lie between whole
      times. Cost: one pass.
    """

    def denoise(variables: Variables, noised: Array, time: Array, condition: Array) -> Array:
        batch = {"noised": noised, "time": time, "condition": condition}
        outputs, _ = task.apply(variables, batch, None, False)
        if "noise" not in outputs:
            raise ValueError(
                f"task must be one of `tasks.diffusion`, its outputs are {sorted(outputs)}"
            )
        return outputs["noise"].astype(noised.dtype)

    return denoise


def null_like(condition: Array, null: int | tuple[int, ...]) -> Array:
    """The null condition in place of each of the conditions `[B]` or `[B, L]`.

    Raises:
      ValueError: for conditions of another shape than the null one: classes where prompts are read,
        or the reverse, or prompts of another length.
    """
    null = jnp.asarray(null, condition.dtype)
    if condition.shape[1:] != null.shape:
        wanted = ["N", *null.shape]
        raise ValueError(
            f"condition must be [{', '.join(map(str, wanted))}], as the process's null condition "
            f"is, got {list(condition.shape)}"
        )
    return jnp.broadcast_to(null, condition.shape)


def guided(denoise: Denoise, scale: float, null: int | tuple[int, ...]) -> Denoise:
    """Classifier-free guidance: `e_0 + scale (e_c - e_0)`, `e_0` being the null condition's.

    Codes in the convention `(1 + w) e_c - w e_0` have `scale = 1 + w`.

    Args:
      denoise: e.g. `denoiser(task)`.
      scale: 1 is the condition alone and 0 the null condition alone, bit for bit and in one pass;
        negative ones lead away from the condition.
      null: see `Process`.

    Raises:
      ValueError: for a scale that is not finite.

    Cost: two passes, made as one of twice the batch.

    References:
      Ho and Salimans, "Classifier-Free Diffusion Guidance", 2022.
    """
    if not checks.traced(scale):
        checks.finite(guidance=scale)
        if scale == 1:
            return denoise
        if scale == 0:
            return lambda v, noised, time, c: denoise(v, noised, time, null_like(c, null))

    def both(variables: Variables, noised: Array, time: Array, condition: Array) -> Array:
        # Side by side: each device has both of an example.
        twice = lambda x: jnp.repeat(x, 2, axis=0)
        paired = jnp.stack([condition, null_like(condition, null)], axis=1)
        paired = paired.reshape(-1, *condition.shape[1:])
        noise = denoise(variables, twice(noised), twice(time), paired)
        conditional, unconditional = jnp.moveaxis(noise.reshape(-1, 2, *noise.shape[1:]), 1, 0)
        return (unconditional + scale * (conditional - unconditional)).astype(noised.dtype)

    return both


def noise_of(keys: Array, shape: tuple[int, ...], number: Array | int = 0) -> Array:
    """Standard normal noise `[B, *shape]`, number `number` of each example's key `[B]`."""
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, number), shape)
    return jax.vmap(draw)(keys)


def _numbered(name: str, values: Sequence[int]) -> dict[str, int]:
    return {f"{name}[{i}]": value for i, value in enumerate(values)}
