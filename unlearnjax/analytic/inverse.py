"""The papers' form: the weight and the inverse R of the regularised autocorrelation.

Zhuang et al., ACIL, NeurIPS 2022; Tang et al., "ACU: Analytic Continual Unlearning", 2025 (arXiv
2505.12239). With H a block of rows and Y its targets, by the Woodbury identity

  learn:   K = (I + H R H')^-1,  R <- R - R H' K H R,  W <- W + R H' K (Y - H W)
  forget:  K = (I - H R H')^-1,  R <- R + R H' K H R,  W <- W - R H' K (Y - H W)

(`R H' K` of the old R equals `R H'` of the new one, which is how the papers write it.) The matrix
that forgetting inverts is positive definite iff what is left is a sum of squares plus gamma I; its
Cholesky factor is the detector of rows that were never learned. See `precision` for what is
computed how, and for how far this form carries.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax.analytic import precision
from unlearnjax.types import Array


class InverseState(NamedTuple):
    """All that is kept of the data.

    Attributes:
      weight: `[D, C]`, in the type that was asked for.
      inverse: `[D, D]`, `(H'H + gamma I)^-1`, symmetric, float64.
      gamma: the regulariser, float64.
      solution: the weight before it is rounded, float64; `None` if it is not rounded.
    """

    weight: Array
    inverse: Array
    gamma: Array
    solution: Array | None = None


def init(num_features: int, num_classes: int, gamma: float, dtype) -> InverseState:
    """Before any data: `W = 0`, `R = I / gamma`."""
    gamma = jnp.asarray(gamma, jnp.float64)
    inverse = jnp.eye(num_features, dtype=jnp.float64) / gamma
    weight = jnp.zeros((num_features, num_classes), jnp.float64)
    return _with_weight(InverseState(weight.astype(dtype), inverse, gamma), weight)


def add(state: InverseState, features: Array, targets: Array) -> tuple[InverseState, Array, Array]:
    """Learns a block of at most D rows, and whether that is accurate, and possible (always).

    `2 n D^2` multiplications, and `n^2 D`.
    """
    return _rank_update(state, features, targets, 1)


def subtract(
    state: InverseState, features: Array, targets: Array
) -> tuple[InverseState, Array, Array]:
    """Forgets a block of at most D rows, and whether that is accurate, and possible."""
    return _rank_update(state, features, targets, -1)


def _rank_update(state: InverseState, features: Array, targets: Array, sign: int):
    weight = state.weight if state.solution is None else state.solution
    mapped = jax.lax.dot(features, state.inverse)  # H R
    eye = jnp.eye(features.shape[0], dtype=mapped.dtype)
    inner = eye + sign * jax.lax.dot(mapped, features.T)
    factor = jnp.linalg.cholesky(inner)
    # V = L^-1 [H R | Y - H W]: both updates are V' V blocks.
    right = jnp.concatenate([mapped, targets - jax.lax.dot(features, weight)], axis=1)
    solved = jax.scipy.linalg.solve_triangular(factor, right, lower=True)
    change = jax.lax.dot(solved[:, : mapped.shape[1]].T, solved)
    inverse = state.inverse - sign * change[:, : mapped.shape[1]]
    new = _with_weight(
        state._replace(inverse=inverse), weight + sign * change[:, mapped.shape[1] :]
    )
    # R began as I / gamma: what rounding took from it then is missing from `inner` now.
    lost = precision.rounded_away(jnp.sum(features**2, axis=1).max(initial=0) / state.gamma)
    root = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    accurate = lost * jnp.sum(root**2) < 1  # its smallest eigenvalue is at least 1 / trace K
    # Not even with that much more is it positive definite: the rows are not in R.
    possible = jnp.isfinite(jnp.linalg.cholesky(inner + lost * eye)).all()
    return new, accurate, possible


def _with_weight(state: InverseState, weight: Array) -> InverseState:
    rounded = weight.astype(state.weight.dtype)
    return state._replace(
        weight=rounded, solution=None if rounded.dtype == weight.dtype else weight
    )
