"""Noise that images share: added to all of a class, or of a cluster."""

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.protection.types import Protection, validate_labels, validate_pixels
from unlearnjax.types import Array, Data


def class_noise(num_classes: int, epsilon: float = 16 / 255) -> Protection:
    """Random noise per class, the simplest protection that needs the labels; see `random_noise`.

    The memory is the noise `[C, H, W, K]`.

    Args:
      num_classes: C of the labels that the protector has.
      epsilon: most that a pixel changes, in (0, 1].

    Raises:
      ValueError: for a value out of range; where it is used, for inputs that are no images in
        [0, 1], and labels that are missing or none of the classes.
    """
    checks.whole(num_classes=num_classes)
    checks.at_least(1, num_classes=num_classes)
    checks.part(epsilon=epsilon)

    def fit(rng: Array, data: Data) -> Array:
        inputs = jnp.asarray(data["inputs"])
        validate_pixels(inputs)
        return random_noise(rng, num_classes, inputs.shape[1:], epsilon)

    def apply(noise: Array, data: Data) -> Data:
        inputs = jnp.asarray(data["inputs"])
        validate_pixels(inputs)
        return {**data, "inputs": added(inputs, noise, validate_labels(data, len(noise)))}

    return Protection(fit, apply, frozenset({"labels"}))


def random_noise(rng: Array, number: int, shape: tuple[int, ...], epsilon: float) -> Array:
    """`[number, *shape]`, each entry `epsilon` or its negative: as large as the budget allows.

    What is drawn for one depends on `rng` and its number alone.
    """
    one = lambda i: jax.random.rademacher(jax.random.fold_in(rng, i), shape, jnp.float32)
    return epsilon * jax.vmap(one)(jnp.arange(number))


def added(images: Array, noise: Array, chosen: Array) -> Array:
    """`clip(x + noise[chosen], 0, 1)`, in the type of the images.

    Args:
      images: x, `[N, H, W, K]` in [0, 1].
      noise: `[P, H, W, K]`.
      chosen: `[N]` integers, which noise each image gets.
    """
    return jnp.clip(images + noise[chosen].astype(images.dtype), 0, 1)
