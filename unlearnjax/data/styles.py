"""Styles: what makes a coloured image of a grey one, by arithmetic.

In the place of the network that stylises photos for UnlearnCanvas (Zhang et al., NeurIPS 2024,
arXiv 2402.11846), so that an image's style and its object are known exactly. The styles are ours.
"""

from collections.abc import Callable, Mapping

import numpy as np

from unlearnjax import checks

# Ordered dither: the thresholds of a block, in sixteenths (Bayer, 1973).
BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
_Colour = tuple[int, int, int]  # red, green and blue, bytes


def render(images: np.ndarray, style: str) -> np.ndarray:
    """Grey images in a style.

    Args:
      images: `[..., H, W]` in [0, 1], H and W even.
      style: one of `STYLES`.

    Returns:
      `[..., H, W, 3]` bytes.

    Raises:
      ValueError: for another style, or images that are not such.

    Examples:
      >>> render(np.array([[0.0, 1.0], [0.5, 0.5]]), "photo")[..., 0]
      array([[  0, 255],
             [128, 128]], dtype=uint8)
    """
    checks.one_of(style=(style, tuple(STYLES)))
    images = np.asarray(images)
    checks.floating(images=images)
    if images.ndim < 2 or not images.size or any(side % 2 for side in images.shape[-2:]):
        raise ValueError(f"images must be [..., H, W], H and W even, got {list(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"images must lie in [0, 1], got {images.min()} to {images.max()}")
    return np.round(STYLES[style](images.astype(np.float64))).astype(np.uint8)


def edges(images: np.ndarray) -> np.ndarray:
    """`[..., H, W]` in [0, 1]: how much neighbours on either side differ, the border repeated.

    Examples:
      >>> edges(np.array([[0.0, 0.0, 0.6, 0.6]]))
      array([[0. , 0.6, 0.6, 0. ]])
    """
    around = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(1, 1)] * 2, mode="edge")
    down = around[..., 2:, 1:-1] - around[..., :-2, 1:-1]
    right = around[..., 1:-1, 2:] - around[..., 1:-1, :-2]
    return np.minimum(np.hypot(down, right), 1.0)


def _between(low: _Colour, high: _Colour, grey: np.ndarray) -> np.ndarray:
    """`[..., H, W, 3]`: from one colour at 0 to another one at 1."""
    return np.array(low) + grey[..., None] * (np.array(high) - np.array(low))


def _photo(grey: np.ndarray) -> np.ndarray:
    return _between((0, 0, 0), (255, 255, 255), grey)


def _crimson(grey: np.ndarray) -> np.ndarray:
    return _between((51, 0, 13), (255, 204, 178), grey)


def _ocean(grey: np.ndarray) -> np.ndarray:
    return _between((0, 26, 102), (178, 230, 255), 1 - grey)


def _sketch(grey: np.ndarray) -> np.ndarray:
    return _photo(1 - edges(grey))


def _halftone(grey: np.ndarray) -> np.ndarray:
    height, width = grey.shape[-2:]
    threshold = np.tile(BAYER, (-(-height // 4), -(-width // 4)))[:height, :width]
    return _between((51, 26, 0), (255, 230, 153), (16 * grey > threshold + 0.5).astype(float))


def _mosaic(grey: np.ndarray) -> np.ndarray:
    *rest, height, width = grey.shape
    mean = grey.reshape(*rest, height // 2, 2, width // 2, 2).mean((-3, -1))
    level = np.minimum(np.floor(4 * mean), 3) / 3
    return _between((0, 51, 0), (153, 255, 153), level.repeat(2, axis=-2).repeat(2, axis=-1))


def _hatch(grey: np.ndarray) -> np.ndarray:
    row, column = np.indices(grey.shape[-2:])
    return _between((51, 0, 76), (230, 204, 255), grey * ((row + column) % 4 < 2))


def _neon(grey: np.ndarray) -> np.ndarray:
    return _between((0, 0, 26), (0, 255, 255), edges(grey))


# Grey images `[..., H, W]` in [0, 1] to `[..., H, W, 3]` in [0, 255]; a style is a line here.
STYLES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "photo": _photo,
    "crimson": _crimson,
    "ocean": _ocean,
    "sketch": _sketch,
    "halftone": _halftone,
    "neon": _neon,
    "mosaic": _mosaic,
    "hatch": _hatch,
}
