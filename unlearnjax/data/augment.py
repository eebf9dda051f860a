"""Image augmentation as pure functions of a key and an example; see `tasks.augmented`."""

import jax
import jax.numpy as jnp

from unlearnjax import checks
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


def sharpen(
    rng: Array,
    example: Batch,
    *,
    centre: float = 2.5,
    deviation: float = 0.1,
    keep: float = 0.3,
) -> Batch:
    """Undoes blur: a random sharpening kernel, then low frequencies alone.

    RSK and FF of Kim, Sandoval-Segura, "Learning from Convolution-based Unlearnable Datasets", 2024
    (arXiv 2411.01742). The kernel has c in the middle and minus a weight at each of its four
    neighbours, `c ~ N(centre, deviation^2)`, each weight `~ N((c - 1) / 4, deviation^2)`; of the
    cosine transform the share `keep` of rows and of columns stays. After both, pixels are clipped
    to [0, 1]. The published code convolves without padding, so that images lose a pixel at every
    side; here they are continued by their edges.

    Args:
      rng: key of this example.
      example: `inputs` `[H, W, C]`, pixels in [0, 1].
      centre, deviation: of the kernel; without a deviation it is the same for all.
      keep: in (0, 1], of frequencies per axis, rounded down, at least one; 1 keeps all.

    Raises:
      ValueError: for a value out of range, or inputs that are no image.
    """
    checks.at_least(0, deviation=deviation)
    checks.finite(centre=centre)
    checks.part(keep=keep)
    image = example["inputs"]
    if image.ndim != 3:
        raise ValueError(f"inputs must be [H, W, C] of an example, got shape {[*image.shape]}")
    middle, *sides = deviation * jax.random.normal(rng, (5,), image.dtype)
    middle += centre
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    up, down = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    result = middle * image
    for side, noise in zip((up, left, right, down), sides, strict=True):
        result -= ((middle - 1) / 4 + noise) * side
    result = jnp.clip(result, 0, 1)
    if keep == 1:
        return {**example, "inputs": result}
    frequencies = jax.scipy.fft.dctn(result, axes=(0, 1), norm="ortho")
    rows, columns = (max(1, int(keep * size)) for size in image.shape[:2])
    kept = jnp.zeros_like(frequencies).at[:rows, :columns].set(frequencies[:rows, :columns])
    low = jax.scipy.fft.idctn(kept, axes=(0, 1), norm="ortho")
    return {**example, "inputs": jnp.clip(low, 0, 1)}
