"""A filter per class: what is learned is the filter, not the image.

Sadasivan, Soltanolkotabi, Feizi, "CUDA: Convolution-based Unlearnable Datasets", CVPR 2023
(arXiv 2303.04278).
"""

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.models import layers
from unlearnjax.protection.types import Protection, validate_labels, validate_pixels
from unlearnjax.types import Array, Data

# Greys of an 8-bit image above black.
GREYS = 255
_AT_ONCE = 100  # images; it divides the size of most data sets, of which then none are left over


def convolutional(
    num_classes: int,
    *,
    kernel_size: int = 3,
    blur: float = 0.3,
    one_filter: bool = False,
    in_8_bits: bool = False,
) -> Protection:
    """CUDA: every image is filtered by the filter of its class, see `draw_filters` and `filtered`.

    No model, no optimisation; the memory is the filters `[C, K, K]`. What a model learns is which
    filter it sees, so it is accurate on images that are filtered alike, and not on clean ones.

    Args:
      num_classes: C of the labels that the protector has.
      kernel_size: K of the filters, odd: 3, for large images 9.
      blur: p_b in [0, 1], up to which a filter's weights are drawn; 0.3, for large images 0.06.
      one_filter: whether all classes have the filter of class 0: a control, whose blur and
        brightness are the same and say nothing about the class.
      in_8_bits: whether pixels are cut down to multiples of 1/255, as storing them does in the
        published code, which does not round.

    Raises:
      ValueError: for a value out of range; in `apply`, for inputs that are no images in [0, 1], and
        labels that are missing or none of the classes.

    Examples:
      >>> protection = convolutional(10)
      >>> images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 1))
      >>> data = {"inputs": images, "targets": jnp.array([0, 3, 3, 9])}
      >>> filters = protection.fit(jax.random.key(1), data)
      >>> protected = protection.apply(filters, data)
      >>> filters.shape, protected["inputs"].shape, float(protected["inputs"].max())
      ((10, 3, 3), (4, 8, 8, 1), 1.0)
    """
    _validate(num_classes, kernel_size, blur)

    def fit(rng: Array, data: Data) -> Array:
        del data
        filters = draw_filters(rng, num_classes, kernel_size=kernel_size, blur=blur)
        return jnp.broadcast_to(filters[:1], filters.shape) if one_filter else filters

    def apply(filters: Array, data: Data) -> Data:
        inputs, targets = jnp.asarray(data["inputs"]), validate_labels(data, len(filters))
        validate_pixels(inputs)
        result = filtered(inputs, filters[targets])
        return {**data, "inputs": jnp.floor(GREYS * result) / GREYS if in_8_bits else result}

    return Protection(fit, apply, frozenset({"labels"}))


def draw_filters(rng: Array, num_classes: int, *, kernel_size: int = 3, blur: float = 0.3) -> Array:
    """`[C, K, K]` filters of the classes.

    Each weight is uniform in [0, blur], but for one, at a place that is uniform over all K x K,
    which is 1 (as in the published code, not at the centre: so images are shifted, too). The filter
    of class c depends on `rng` and c alone: more classes leave it as it is.

    Args:
      rng: the private key.
      num_classes, kernel_size, blur: see `convolutional`.
    """
    _validate(num_classes, kernel_size, blur)

    def one(number):
        weight_key, place_key = jax.random.split(jax.random.fold_in(rng, number))
        weights = jax.random.uniform(weight_key, (kernel_size**2,), maxval=blur)
        place = jax.random.randint(place_key, (), 0, kernel_size**2)
        return weights.at[place].set(1.0).reshape(kernel_size, kernel_size)

    return jax.vmap(one)(jnp.arange(num_classes))


@jax.jit
def filtered(images: Array, filters: Array) -> Array:
    """`(s * x) / max(s * x)`, all channels alike; `*` is cross-correlation with zeros around x.

    A black image stays black. See `models.layers.filter_each`.

    Args:
      images: x, `[N, H, W, C]`, not below 0.
      filters: s, `[N, K, K]`, K odd, not below 0.

    Returns:
      `[N, H, W, C]`, the greatest pixel of each is 1.
    """

    def one(pair):
        image, kernel = pair
        total = layers.filter_each(image[None], kernel[None])[0]
        return total / jnp.where(total.max() > 0, total.max(), 1)

    # As many at a time as a CPU's cache holds of small ones, where memory is what it waits for.
    return jax.lax.map(one, (images, filters), batch_size=_AT_ONCE)


def _validate(num_classes: int, kernel_size: int, blur: float) -> None:
    checks.whole(num_classes=num_classes, kernel_size=kernel_size)
    checks.at_least(1, num_classes=num_classes, kernel_size=kernel_size)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    checks.share(blur=blur)
