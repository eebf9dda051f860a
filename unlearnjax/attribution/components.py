"""Examples that training treats alike: principal components of the attribution matrix."""

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.types import Array


def principal_projections(
    matrix: Array, num_components: int, *, rng: Array | None = None, num_steps: int = 30
) -> Array:
    """`[N, k]`: projection of every example's attributions on their first principal components.

    The examples with the highest projections on one component are a coherent group, and forgetting
    such a group is harder than forgetting as many random examples (forget sets 4 to 9 of Georgiev
    et al., 2025). By subspace iteration; nothing larger than the matrix is formed.

    Args:
      matrix: `[N, D]`, row x what attributes to each of D training examples in the output of
        example x, e.g. `datamodels.weight[:, :N, 0].T`.
      num_components: k, at most N and D.
      rng: key of the start; default `jax.random.key(0)`.
      num_steps: of the iteration, each two products with the matrix.

    Returns:
      The projections, components in falling order of variance; the entry of largest absolute value
      of each is positive.

    Raises:
      ValueError: for a value out of range.

    References:
      Ilyas et al., "Datamodels", ICML 2022, section 4.3.
    """
    checks.at_least(1, num_components=num_components, num_steps=num_steps)
    matrix = jnp.asarray(matrix)
    if num_components > min(matrix.shape):
        raise ValueError(f"num_components must be <= {min(matrix.shape)}, got {num_components}")
    rows = matrix - matrix.mean(0)
    # A few directions more than are asked for: the last converge slowest.
    width = min(num_components + 8, *matrix.shape)
    start = jax.random.normal(jax.random.key(0) if rng is None else rng, (matrix.shape[1], width))

    def one(basis, _):
        return jnp.linalg.qr(rows.T @ (rows @ basis))[0], None

    basis = jax.lax.scan(one, jnp.linalg.qr(start)[0], length=num_steps)[0]
    # Within the subspace the components are found exactly.
    _, _, rotation = jnp.linalg.svd(rows @ basis, full_matrices=False)
    projections = rows @ (basis @ rotation[:num_components].T)
    largest = jnp.take_along_axis(projections, jnp.abs(projections).argmax(0)[None], axis=0)
    return projections * jnp.sign(largest)
