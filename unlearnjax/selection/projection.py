"""The set of relaxed selections, `{w in [0, 1]^N, sum w = k}`: projection onto it, rounding."""

import jax
import jax.numpy as jnp

from unlearnjax.types import Array


def project(values: Array, size: float) -> Array:
    """The nearest point of `{w in [0, 1]^N, sum w = size}`, in Euclidean distance.

    It is `clip(values - mu, 0, 1)`; mu is bracketed by bisection to the last bit that the dtype
    holds, then computed from the entries strictly inside (0, 1), on which the sum is linear.

    Args:
      values: `[N]`.
      size: in [0, N].

    Returns:
      `[N]`. Cost: some 40 passes over N.

    Examples:
      >>> project(jnp.array([2.0, 0.5, 0.5, -1.0]), 2).tolist()
      [1.0, 0.5, 0.5, 0.0]
    """
    values = jnp.asarray(values)
    total = lambda mu: jnp.clip(values - mu, 0, 1).sum()
    num_halvings = 2 * jnp.finfo(values.dtype).nmant

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = total(middle) > size  # mu is too small
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(
        0, num_halvings, halve, (values.min() - 1, values.max().astype(values.dtype))
    )
    middle = (low + high) / 2
    shifted = values - middle
    inside = (shifted > 0) & (shifted < 1)
    full = jnp.sum(shifted >= 1)
    count = jnp.maximum(inside.sum(), 1)
    mu = (jnp.sum(jnp.where(inside, values, 0)) + full - size) / count
    return jnp.clip(values - jnp.where(inside.any(), mu, middle), 0, 1).astype(values.dtype)


def top(values: Array, size: int) -> Array:
    """`[N]`: 1 at the `size` largest values, else 0; of equals the first.

    Examples:
      >>> top(jnp.array([0.2, 0.9, 0.4]), 2).tolist()
      [0.0, 1.0, 1.0]
    """
    chosen = jax.lax.top_k(values, size)[1]
    return jnp.zeros_like(values).at[chosen].set(1)
