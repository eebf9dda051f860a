"""Times, positions and classes as vectors."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearnjax.types import Array


def waves(positions: Array, width: int, longest: float = 10_000.0) -> Array:
    """Sines, then cosines, of positions `[N]` at frequencies from 1 down to `1 / longest`.

    Args:
      positions: whole or not.
      width: of the result, even and at least 4.
      longest: inverse of the lowest frequency.

    Returns:
      `[N, width]`.
    """
    half = width // 2
    frequencies = jnp.exp(-jnp.log(longest) * jnp.arange(half) / (half - 1))
    angles = positions.astype(frequencies.dtype)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def grid_positions(rows: int, cols: int, width: int) -> Array:
    """`[rows * cols, width]`: waves of the row beside those of the column."""
    y, x = jnp.meshgrid(jnp.arange(rows), jnp.arange(cols), indexing="ij")
    return jnp.concatenate([waves(p.reshape(-1), width // 2) for p in (y, x)], axis=-1)


class Classes(nn.Module):
    """A row for each class `[B]`, and one more, number `num_classes`, for none: `[B, width]`.

    Numbers of no class, negative ones too, give NaN.
    """

    num_classes: int
    width: int
    stddev: float = 0.02
    dtype: Any = None

    @nn.compact
    def __call__(self, condition: Array) -> Array:
        init = nn.initializers.normal(self.stddev)
        table = nn.Embed(
            self.num_classes + 1, self.width, dtype=self.dtype, embedding_init=init, name="rows"
        )
        known = jnp.where(condition < 0, self.num_classes + 1, condition)  # else from the end
        return table(known)
