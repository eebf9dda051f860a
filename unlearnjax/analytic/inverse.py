"""The papers' form: the weight and the inverse R of the regularised autocorrelation.

Zhuang et al., ACIL, NeurIPS 2022; Tang et al., "ACU: Analytic Continual Unlearning", 2025 (arXiv
2505.12239). With H a block of rows and Y its targets, by the Woodbury identity

  learn:   K = (I + H R H')^-1,  R <- R - R H' K H R,  W <- W + R H' K (Y - H W)
  forget:  K = (I - H R H')^-1,  R <- R + R H' K H R,  W <- W - R H' K (Y - H W)

(`R H' K` of the old R equals `R H'` of the new one, which is how the papers write it.) The matrix
that forgetting inverts is positive definite iff what is left is a sum of squares plus gamma I; its
Cholesky factor is the detector of rows that were never learned.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax.types import Array


class InverseState(NamedTuple):
    """All that is kept of the data.

    Attributes:
      weight: `[D, C]`.
      inverse: `[D, D]`, `(H'H + gamma I)^-1`, symmetric.
    """

    weight: Array
    inverse: Array


def init(num_features: int, num_classes: int, gamma: float, dtype) -> InverseState:
    """Before any data: `W = 0`, `R = I / gamma`."""
    weight = jnp.zeros((num_features, num_classes), dtype)
    return InverseState(weight, jnp.eye(num_features, dtype=dtype) / gamma)


def add(state: InverseState, features: Array, targets: Array) -> InverseState:
    """Learns a block of at most D rows; `2 n D^2` multiplications, and `n^2 D`."""
    return _rank_update(state, features, targets, 1)[0]


def subtract(state: InverseState, features: Array, targets: Array) -> tuple[InverseState, Array]:
    """Forgets a block of at most D rows, and whether that was possible."""
    return _rank_update(state, features, targets, -1)


def _rank_update(state: InverseState, features: Array, targets: Array, sign: int):
    weight, inverse = state
    mapped = features @ inverse  # H R
    inner = jnp.eye(features.shape[0], dtype=inverse.dtype) + sign * mapped @ features.T
    factor = jnp.linalg.cholesky(inner)
    # V = L^-1 [H R | Y - H W]: both updates are V' V blocks.
    right = jnp.concatenate([mapped, targets - features @ weight], axis=1)
    solved = jax.scipy.linalg.solve_triangular(factor, right, lower=True)
    change = solved[:, : mapped.shape[1]].T @ solved
    new = InverseState(
        weight + sign * change[:, mapped.shape[1] :],
        inverse - sign * change[:, : mapped.shape[1]],
    )
    # Without positive definiteness the factor is NaN; next to it, it is rounding alone.
    smallest = jnp.min(jnp.diagonal(factor))
    return new, smallest > jnp.sqrt(jnp.finfo(inverse.dtype).eps)
