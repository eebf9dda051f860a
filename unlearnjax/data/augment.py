"""Image augmentation as pure functions of a key and a batch."""

import jax
import jax.numpy as jnp

from unlearnjax.types import Array, Batch


def pad_crop_flip(rng: Array, batch: Batch, *, padding: int = 4, flip: bool = True) -> Batch:
    """Random crop after reflection padding, and a random horizontal flip, per example.

    Args:
      rng: key of this batch.
      batch: `inputs` `[B, H, W, C]`.
      padding: pixels added on every side before cropping back to `[H, W]`.
      flip: whether to mirror half of the images.

    Returns:
      `batch` with `inputs` replaced; same shape and dtype.
    """
    images = batch["inputs"]
    if images.ndim != 4:
        raise ValueError(f"inputs must be [B, H, W, C] to be cropped, got shape {images.shape}")
    height, width, channels = images.shape[1:]
    border = (padding, padding)
    padded = jnp.pad(images, ((0, 0), border, border, (0, 0)), mode="reflect")

    def one(key, image):
        crop_key, flip_key = jax.random.split(key)
        top, left = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
        image = jax.lax.dynamic_slice(image, (top, left, 0), (height, width, channels))
        return jnp.where(flip & jax.random.bernoulli(flip_key), image[:, ::-1], image)

    return {**batch, "inputs": jax.vmap(one)(jax.random.split(rng, images.shape[0]), padded)}
