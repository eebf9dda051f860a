"""What audits for backdoors look at: a model as a function of pixels."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.types import Array

# pixels [N, H, W, C] in [0, 1] -> logits [N, C]
Predict = Callable[[Array], Array]


def pixels(images: Array) -> Array:
    """Images as an array, refused unless they are pixels."""
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(f"images must be [N, H, W, C], got {images.shape}")
    checks.floating(images=images)
    if not checks.traced(images) and images.size:
        known = np.asarray(images)  # also while others are traced
        low, high = known.min(), known.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(f"images must be pixels in [0, 1], got {low} to {high}")
    return images
