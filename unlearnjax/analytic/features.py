"""What the closed-form head sees: a random expansion of features, and one-hot targets."""

import math

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.analytic import precision
from unlearnjax.types import Array


def random_projection(rng: Array, num_inputs: int, num_features: int) -> Array:
    """`[d, D]`: a Gaussian matrix of standard deviation `d^-1/2`, fixed once for `expand`."""
    checks.at_least(1, num_inputs=num_inputs, num_features=num_features)
    return jax.random.normal(rng, (num_inputs, num_features)) * num_inputs**-0.5


def expand(projection: Array, inputs: Array) -> Array:
    """`relu(inputs @ projection)`: `[n, ...]` inputs, flattened, to `[n, D]` features.

    References:
      Zhuang et al., "ACIL: Analytic Class-Incremental Learning", NeurIPS 2022 (the "buffer").

    Examples:
      >>> projection = random_projection(jax.random.key(0), num_inputs=64, num_features=256)
      >>> expand(projection, jnp.ones((3, 8, 8, 1))).shape
      (3, 256)
    """
    inputs = jnp.asarray(inputs)
    flat = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))
    return jax.nn.relu(flat @ projection)


def one_hot(targets: Array, num_classes: int, dtype=jnp.float32) -> Array:
    """`[n]` class numbers to `[n, C]` rows of 0 and 1.

    Raises:
      ValueError: for class numbers that are not integers or, outside of compiled code, not in
        0..C-1. In compiled code the row of such a number is zero.
    """
    targets = jnp.asarray(targets)
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(f"targets must be integers, got {targets.dtype.name}")
    known = (targets >= 0) & (targets < num_classes)
    if precision.broken(known.all()):
        raise ValueError(f"targets must lie in 0..{num_classes - 1}, got {int(targets[~known][0])}")
    return jax.nn.one_hot(targets, num_classes, dtype=dtype)
