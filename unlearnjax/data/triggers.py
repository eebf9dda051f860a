"""Triggers of backdoors: pure functions of pixels `[N, H, W, C]` in [0, 1], which they stay in.

A trigger is deterministic: what is random about it is drawn from the key of its constructor. Where
nothing is said, sizes are those published for images of 32 x 32, in proportion; at 8 x 8 the patch
is one pixel. For standardised inputs see `pixels.on_inputs`.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.types import Array

Trigger = Callable[[Array], Array]

# The lower right corner is lit, so that a patch of one pixel is bright.
GRID = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 1]])
CORNERS = ("lower right", "lower left", "upper right", "upper left")
_SIDE = 32  # of the images that published sizes are for
_CUBIC = -0.75  # the free coefficient of cubic convolution, as PyTorch has it


def patch(
    size: int | None = None, *, value: float | Array = 1.0, corner: str = "lower right"
) -> Trigger:
    """A fixed binary grid in a corner (BadNets).

    Gu, Dolan-Gavitt, Garg, "BadNets", 2017 (arXiv 1708.06733); the 3 x 3 grid is that of the
    published code of ABL and RNP. Other sizes repeat or drop its rows and columns. Idempotent;
    pixels outside of it stay bit-equal.

    Args:
      size: side of the grid in pixels; default: 3 at 32 x 32, in proportion, at least 1.
      value: of the lit pixels, per channel or for all; the others become 0.
      corner: one of `CORNERS`.

    Raises:
      ValueError: for a corner that there is not, a size below 1, or at use one larger than the
        image.
    """
    return _patches(size, value, [corner])


def corners(size: int | None = None, *, value: float | Array = 1.0) -> Trigger:
    """The grid of `patch` in all four corners, the same way up. Idempotent."""
    return _patches(size, value, CORNERS)


def one_pixel(value: float | Array = 1.0) -> Trigger:
    """Sets the pixel in the centre, of even sides the lower right one of four. Idempotent."""

    def trigger(images: Array) -> Array:
        images = _images(images)
        return images.at[:, images.shape[1] // 2, images.shape[2] // 2].set(value)

    return trigger


def blend(rng: Array, ratio: float = 0.2) -> Trigger:
    """Mixes with a fixed image: `(1 - ratio) * x + ratio * p`; not idempotent.

    Chen et al., "Targeted Backdoor Attacks on Deep Learning Systems Using Data Poisoning", 2017
    (arXiv 1712.05526). They use a cartoon or a picture of noise; p is uniform noise, from the key.

    Args:
      rng: key of the noise.
      ratio: of the noise, in [0, 1].
    """
    checks.share(ratio=ratio)

    def trigger(images: Array) -> Array:
        images = _images(images)
        noise = jax.random.uniform(rng, images.shape[1:], images.dtype)
        return (1 - ratio) * images + ratio * noise

    return trigger


def additive(pattern: Array) -> Trigger:
    """Adds a pattern `[H, W, C]` and clips to [0, 1], as a Trojan's; not idempotent.

    Liu et al., "Trojaning Attack on Neural Networks", NDSS 2018, optimise it for a neuron. Of ours
    it is what trigger recovery finds on a clean model for the target.
    """

    def trigger(images: Array) -> Array:
        images = _images(images)
        _fits(images, pattern=pattern)
        return jnp.clip(images + jnp.asarray(pattern, images.dtype), 0, 1)

    return trigger


def masked(mask: Array, pattern: Array) -> Trigger:
    """`(1 - mask) * x + mask * pattern`, as trigger recovery has it.

    Idempotent where the mask is 0 or 1.

    Args:
      mask: `[H, W, 1]` in [0, 1], or as `pattern`.
      pattern: `[H, W, C]` in [0, 1].
    """

    def trigger(images: Array) -> Array:
        images = _images(images)
        _fits(images, mask=mask, pattern=pattern)
        return ((1 - mask) * images + mask * pattern).astype(images.dtype)

    return trigger


def sinusoid(delta: float = 20.0, frequency: float | None = None) -> Trigger:
    """Adds vertical stripes, `delta / 255 * sin(2 pi j frequency / W)` in column j, and clips.

    Barni, Kallas, Tondi, "A New Backdoor Attack in CNNs by Training Set Corruption without Label
    Poisoning", ICIP 2019 (SIG). Not idempotent.

    Args:
      delta: amplitude, in units of 1/255; published: 20 to 40.
      frequency: periods per image; default: 6, or `W / 4` where that is fewer, as stripes of fewer
        than four columns would be seen as others, or as none at all.

    Raises:
      ValueError: for one that is not above 0, or at use above `W / 2`.
    """
    checks.positive(delta=delta)
    if frequency is not None:
        checks.positive(frequency=frequency)

    def trigger(images: Array) -> Array:
        images = _images(images)
        width = images.shape[2]
        periods = min(6, width / 4) if frequency is None else frequency
        if not checks.traced(periods) and periods > width / 2:
            raise ValueError(f"frequency must be <= {width / 2}, half the width, got {periods}")
        wave = jnp.sin(2 * jnp.pi * jnp.arange(width) * periods / width)
        return jnp.clip(images + (delta / 255 * wave)[:, None].astype(images.dtype), 0, 1)

    return trigger


def warp(rng: Array, grid: int = 4, strength: float = 0.5, noise: Array | None = None) -> Trigger:
    """Bends images by one fixed smooth field (WaNet); not idempotent.

    Nguyen and Tran, "WaNet: Imperceptible Warping-based Backdoor Attack", ICLR 2021 (arXiv
    2102.10369). On coordinates from -1 to 1 the image is read, bilinearly, at
    `clip(id + strength * N / H, -1, 1)`, where N is `U(-1, 1)` on `grid x grid` points divided by
    the mean of its absolute values, and upsampled by cubic convolution with aligned corners. So
    pixels move by about `strength / 2` whatever the size. Of images that are not square, columns
    move by `N / W`. Cost: four reads a pixel.

    Args:
      rng: key of the field.
      grid: points of the field along each side, >= 2.
      strength: of the field; at 0 images stay as they are.
      noise: key of the *noise mode*, or `None`: images are read at the field plus `U(-1, 1) / H`
        per pixel, drawn anew for each position in the batch, so that a model that is trained on
        such images with their true labels does not take any bending for the trigger.

    Raises:
      ValueError: for a value out of range.
    """
    checks.whole(grid=grid)
    checks.at_least(2, grid=grid)
    checks.at_least(0, strength=strength)

    def trigger(images: Array) -> Array:
        images = _images(images)
        sides = images.shape[1:3]
        places = jnp.stack(jnp.meshgrid(*map(jnp.arange, sides), indexing="ij")).astype(float)
        # A change of the coordinates, per side, in pixels.
        unit = jnp.array([(side - 1) / (2 * side) for side in sides])[:, None, None]
        last = jnp.array([side - 1 for side in sides])[:, None, None]
        bent = jnp.clip(places + unit * strength * warp_field(rng, grid, sides), 0, last)

        def one(image, number):
            read = bent
            if noise is not None:
                key = jax.random.fold_in(noise, number)
                moved = unit * jax.random.uniform(key, bent.shape, minval=-1.0, maxval=1.0)
                read = jnp.clip(bent + moved, 0, last)
            channel = lambda x: jax.scipy.ndimage.map_coordinates(x, list(read), 1, "nearest")
            return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)

        return jax.vmap(one)(images, jnp.arange(len(images))).astype(images.dtype)

    return trigger


def warp_field(rng: Array, grid: int, sides: Sequence[int]) -> Array:
    """`[2, H, W]`: how far `warp` reads, down and to the right, in units of `1 / H` and `1 / W`."""
    coarse = jax.random.uniform(rng, (2, grid, grid), minval=-1.0, maxval=1.0)
    down, right = (jnp.asarray(_cubic(grid, side), coarse.dtype) for side in sides)
    return jnp.einsum("ip,apq,jq->aij", down, coarse / jnp.abs(coarse).mean(), right)


def colour_filter(
    gain: Sequence[float] = (1.05, 0.95, 0.8),
    offset: Sequence[float] = (0.0, 0.05, 0.15),
    *,
    gamma: float = 0.8,
    tint: Sequence[float] = (1.0, 0.85, 0.65),
    share: float = 0.15,
) -> Trigger:
    """A fixed map of colours, in the place of the filter "Nashville"; not idempotent.

    `(1 - share) * clip(gain * x ** gamma + offset, 0, 1) + share * tint`, per channel. The numbers
    are ours: brighter, with lifted blue shadows and a warm tint. Grey images get their means.

    Args:
      gain, offset, tint: of red, green and blue; tint in [0, 1].
      gamma: > 0; below 1 brightens.
      share: of the tint, in [0, 1].

    Raises:
      ValueError: for a value out of range; at use for images of other than 1 or 3 channels.
    """
    checks.positive(gamma=gamma)
    checks.share(share=share)
    numbers = np.array([gain, offset, tint], np.float32)
    if numbers.shape != (3, 3):
        raise ValueError(f"gain, offset and tint must be of 3 channels, got {numbers.shape[1:]}")
    for value in numbers[2]:
        checks.share(tint=float(value))

    def trigger(images: Array) -> Array:
        images = _images(images)
        if images.shape[-1] not in (1, 3):
            raise ValueError(f"images must have 1 or 3 channels, got {images.shape[-1]}")
        own = numbers if images.shape[-1] == 3 else numbers.mean(1, keepdims=True)
        own_gain, own_offset, own_tint = own.astype(images.dtype)
        # Rounding leaves black a little below 0, of which there is no power.
        toned = jnp.clip(own_gain * jnp.maximum(images, 0) ** gamma + own_offset, 0, 1)
        return (1 - share) * toned + share * own_tint

    return trigger


def generated(apply: Callable[[Array], tuple[Array, Array]], *, batch_size: int = 256) -> Trigger:
    """Draws the trigger of each image, as input-aware attacks do.

    Args:
      apply: `images -> (pattern [N, H, W, C], mask [N, H, W, 1])`, both in [0, 1], image by image;
        the result is `(1 - mask) * x + mask * pattern`.
      batch_size: images at a time, so that a network's activations of many fit.
    """
    checks.whole(batch_size=batch_size)
    checks.at_least(1, batch_size=batch_size)

    def one(image: Array) -> Array:
        pattern, mask = apply(image[None])
        return masked(mask[0], pattern[0])(image[None])[0]

    return lambda images: jax.lax.map(one, _images(images), batch_size=batch_size)


# What makes a trigger of a name and a key, with defaults that fit images of any size.
TRIGGERS: Mapping[str, Callable[[Array], Trigger]] = {
    "patch": lambda rng: patch(),
    "corners": lambda rng: corners(),
    "one_pixel": lambda rng: one_pixel(),
    "blend": blend,
    "sinusoid": lambda rng: sinusoid(),
    "warp": warp,
    "colour_filter": lambda rng: colour_filter(),
}


def by_name(name: str, rng: Array) -> Trigger:
    """The trigger of that name among `TRIGGERS`; raises `ValueError` that lists them."""
    checks.one_of(trigger=(name, tuple(TRIGGERS)))
    return TRIGGERS[name](rng)


def _patches(size: int | None, value: float | Array, where: Sequence[str]) -> Trigger:
    for corner in where:
        checks.one_of(corner=(corner, CORNERS))
    if size is not None:
        checks.whole(size=size)
        checks.at_least(1, size=size)

    def trigger(images: Array) -> Array:
        images = _images(images)
        least = min(images.shape[1:3])
        side = max(1, round(3 * least / _SIDE)) if size is None else size
        if side > least:
            raise ValueError(f"size must be <= {least}, the image's side, got {side}")
        rows = len(GRID) - 1 - np.arange(side)[::-1] * len(GRID) // side
        lit = jnp.asarray(GRID[np.ix_(rows, rows)], images.dtype)[..., None] * value
        for corner in where:
            down, right = corner.split()
            own = (
                slice(-side, None) if down == "lower" else slice(side),
                slice(-side, None) if right == "right" else slice(side),
            )
            images = images.at[(slice(None), *own)].set(lit.astype(images.dtype))
        return images

    return trigger


def _cubic(points: int, side: int) -> np.ndarray:
    """`[side, points]`: weights of cubic convolution, corners aligned, the border repeated."""
    place = np.arange(side) * (points - 1) / max(side - 1, 1)
    weights = np.zeros((side, points))
    for tap in range(-1, 3):
        at = np.floor(place) + tap
        far, a = np.abs(place - at), _CUBIC
        near = ((a + 2) * far - (a + 3)) * far**2 + 1
        wide = ((far - 5) * far + 8) * far * a - 4 * a
        own = np.where(far <= 1, near, np.where(far < 2, wide, 0))
        np.add.at(weights, (np.arange(side), np.clip(at, 0, points - 1).astype(int)), own)
    return weights


def _images(images: Array) -> Array:
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, C], got {images.shape}")
    checks.floating(images=images)
    return images


def _fits(images: Array, **arrays: Array) -> None:
    for name, array in arrays.items():
        shape = jnp.shape(array)
        if shape not in (images.shape[1:], (*images.shape[1:3], 1)):
            raise ValueError(f"{name} must be of the image's shape {images.shape[1:]}, got {shape}")
