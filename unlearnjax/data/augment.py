"""Image augmentation as pure functions of a key and an example; see `tasks.augmented`."""

import jax
import jax.numpy as jnp

from unlearnjax.types import Array, Batch


def pad_crop_flip(rng: Array, example: Batch, *, padding: int = 4, flip: bool = True) -> Batch:
    """Random crop after reflection padding, and a random horizontal flip.

    Args:
      rng: key of this example.
      example: `inputs` `[H, W, C]`.
      padding: pixels added on every side before cropping back to `[H, W]`.
      flip: whether to mirror half of the images.

    Returns:
      `example` with `inputs` replaced; same shape and dtype.
    """
    image = example["inputs"]
    if image.ndim != 3:
        raise ValueError(f"inputs must be [H, W, C] of an example, got shape {[*image.shape]}")
    border = (padding, padding)
    padded = jnp.pad(image, (border, border, (0, 0)), mode="reflect")
    crop_key, flip_key = jax.random.split(rng)
    top, left = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
    image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
    flipped = flip & jax.random.bernoulli(flip_key)
    return {**example, "inputs": jnp.where(flipped, image[:, ::-1], image)}
