"""Inputs that are standardised, and the pixels in [0, 1] that they stand for.

Triggers, protections and attacks are defined on pixels, `[N, H, W, C]` in [0, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from unlearnjax.data.dataset import Dataset
from unlearnjax.types import Array


class PixelScale(NamedTuple):
    """What makes pixels of inputs: `inputs * scale + shift`, per channel."""

    scale: Array
    shift: Array


def pixel_scale(mean: Array, std: Array, *, low: float = 0.0, high: float = 255.0) -> PixelScale:
    """The scale of inputs that were standardised.

    Args:
      mean, std: the standardisation, per channel, as a `Dataset` has it: `inputs * std + mean` is
        what is stored.
      low, high: the range of what is stored, which [0, 1] stands for.

    Raises:
      ValueError: unless `low < high`.
    """
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    return PixelScale(jnp.asarray(std) / (high - low), (jnp.asarray(mean) - low) / (high - low))


def pixel_scale_of(dataset: Dataset) -> PixelScale:
    """The scale of a data set: its smallest and largest stored training value are 0 and 1.

    So 0 to 16 of `digits` and 0 to 255 of bytes are pixels from 0 to 1.

    Raises:
      ValueError: if the inputs are no images, or have one value alone.
    """
    inputs = dataset.train["inputs"]
    if np.ndim(inputs) != 4:
        raise ValueError(f"pixels need images [N, H, W, C], got inputs of {np.shape(inputs)}")
    stored = inputs * dataset.std + dataset.mean
    return pixel_scale(dataset.mean, dataset.std, low=float(stored.min()), high=float(stored.max()))


def to_pixels(inputs: Array, scale: PixelScale) -> Array:
    """Pixels of standardised inputs, in [0, 1] but for what lies beyond the range of the scale."""
    return (inputs * scale.scale + scale.shift).astype(inputs.dtype)


def to_inputs(pixels: Array, scale: PixelScale) -> Array:
    """Standardised inputs of pixels."""
    return ((pixels - scale.shift) / scale.scale).astype(pixels.dtype)


def on_inputs(change: Callable[[Array], Array], scale: PixelScale) -> Callable[[Array], Array]:
    """What changes pixels, such as a trigger, as a function of standardised inputs.

    What it leaves as it was stays bit-equal.
    """

    def own(inputs: Array) -> Array:
        inputs = jnp.asarray(inputs)
        pixels = to_pixels(inputs, scale)
        # The change comes back, not the pixels, which rounding would move.
        return inputs + ((change(pixels) - pixels) / scale.scale).astype(inputs.dtype)

    return own
