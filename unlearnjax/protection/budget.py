"""How far protected images, or those with a trigger, are from the clean ones.

Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
Similarity", IEEE Transactions on Image Processing 2004, for SSIM.
"""

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.protection.types import validate_pixels
from unlearnjax.types import Array

# Of pixels in [0, 1]; K1 and K2 of the paper.
_C1, _C2 = 0.01**2, 0.03**2


def budget(clean: Array, changed: Array, *, window: int = 7) -> dict[str, Array]:
    """What a change of images costs.

    Args:
      clean, changed: `[N, H, W, C]` in [0, 1], in pairs.
      window: of `ssim`.

    Returns:
      Scalars. `linf`: greatest change of a pixel, over all images, times 255. `l2`: mean Euclidean
      norm of an image's change. `psnr`: `10 log10(1 / MSE)` in dB of the mean over all pixels of
      all images; infinite where nothing changed. `ssim`: mean over images, 1 where nothing changed.

    Raises:
      ValueError: for inputs that are no images in [0, 1], of different shapes, or smaller than the
        window.
    """
    clean, changed = jnp.asarray(clean), jnp.asarray(changed)
    for name, images in (("clean", clean), ("changed", changed)):
        validate_pixels(images, name)
    similar = ssim(clean, changed, window=window)
    change = changed - clean
    return {
        "linf": 255 * jnp.abs(change).max(),
        "l2": jnp.sqrt(jnp.sum(change**2, axis=(1, 2, 3))).mean(),
        "psnr": -10 * jnp.log10(jnp.mean(change**2)),
        "ssim": similar.mean(),
    }


def ssim(first: Array, second: Array, *, window: int = 7) -> Array:
    """Structural similarity `[N]` of pairs of images in [0, 1], mean over channels and windows.

    With uniform windows that lie inside of the image, and sample variances (divided by one less
    than there are pixels), as scikit-image has it by default; the paper weighs a window's pixels by
    a Gaussian.

    Args:
      first, second: `[N, H, W, C]`.
      window: odd side of the windows, in pixels.

    Raises:
      ValueError: for different shapes, an even or too small window, or one that is larger than the
        image.
    """
    checks.whole(window=window)
    checks.at_least(3, window=window)
    if window % 2 == 0:
        raise ValueError(f"window must be odd, got {window}")
    if first.shape != second.shape or first.ndim != 4:
        raise ValueError(
            f"images must be pairs [N, H, W, C], got {[*first.shape]} and {[*second.shape]}"
        )
    if window > min(first.shape[1:3]):
        raise ValueError(
            f"window must be at most the images' {min(first.shape[1:3])} pixels, got {window}"
        )

    def mean(x):
        total = jax.lax.reduce_window(
            x, jnp.zeros((), x.dtype), jax.lax.add, (1, window, window, 1), (1, 1, 1, 1), "VALID"
        )
        return total / window**2

    # Around one value, so that no digits are lost in differences of squares.
    middle = first.mean((1, 2), keepdims=True)
    x, y = first - middle, second - middle
    mean_x, mean_y = mean(x), mean(y)
    sample = window**2 / (window**2 - 1)
    var_x, var_y = (sample * (mean(v**2) - m**2) for v, m in ((x, mean_x), (y, mean_y)))
    cov = sample * (mean(x * y) - mean_x * mean_y)
    mean_x, mean_y = mean_x + middle, mean_y + middle
    of_means = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return (of_means * (2 * cov + _C2) / (var_x + var_y + _C2)).mean((1, 2, 3))
