"""What protects data from being learned: a pair of pure functions, as an unlearner is."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from unlearnjax import checks
from unlearnjax.types import Array, Data, PyTree


class Protection(NamedTuple):
    """Makes images unlearnable before they are published.

    Images are pixels, `inputs` `[N, H, W, C]` in [0, 1]. Models that train on them are to
    standardise them by the constants of the clean set: constants of the protected one would undo a
    change of brightness, and count it as protection.

    Attributes:
      fit: `(rng, data) -> memory`: what of the images and of `rng` decides how they are changed,
        filters or noise. It is the private key: who has it can protect further images alike, and
        may undo the protection.
      apply: `(memory, data) -> data` with other `inputs`, each in [0, 1]; of other data, too.
      needs: what it reads beside the images, a subset of {'labels'}.
    """

    fit: Callable[[Array, Data], PyTree]
    apply: Callable[[PyTree, Data], Data]
    needs: frozenset[str]


def validate_pixels(inputs: Array, name: str = "inputs") -> None:
    """Raises `ValueError` unless they are `[N, H, W, C]`, floating-point, and all in [0, 1]."""
    if inputs.ndim != 4:
        raise ValueError(f"{name} must be images [N, H, W, C], got shape {[*inputs.shape]}")
    checks.floating(**{name: inputs})
    if not checks.traced(inputs) and inputs.size:
        low, high = float(inputs.min()), float(inputs.max())
        if not (low >= 0 and high <= 1):  # NaN is in no range
            raise ValueError(f"{name} must be pixels in [0, 1], got {low:g} to {high:g}")


def validate_labels(data: Data, num_classes: int) -> Array:
    """The labels, `targets` `[N]`, of a protection that reads them.

    On the host, since compiled code cannot tell a class that there is not.

    Raises:
      ValueError: if they are missing, or no class numbers in [0, num_classes).
    """
    if "targets" not in data:
        raise ValueError(f"data must have labels, 'targets', got {sorted(data)}")
    targets = jnp.asarray(data["targets"])
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be class numbers, got {targets.dtype}")
    if not checks.traced(targets):
        bad = np.flatnonzero((np.asarray(targets) < 0) | (np.asarray(targets) >= num_classes))
        if bad.size:
            raise ValueError(
                f"targets must be class numbers in [0, {num_classes}), got {targets[bad[0]]} in "
                f"row {bad[0]}"
            )
    return targets
