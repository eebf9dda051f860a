"""The stable form: sums of outer products, which learning adds to and forgetting subtracts from.

`A = H'H + gamma I` and `B = H'Y` are exact sums, so that their error does not grow from call to
call beyond rounding of the sums themselves; the weight is solved anew from them by Cholesky.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax.types import Array

# How far below gamma the spectrum of what is left may fall by rounding, as a share of gamma.
_SLACK = 1e-2


class GramState(NamedTuple):
    """All that is kept of the data.

    Attributes:
      weight: `[D, C]`, the solution of `A W = B`.
      gram: `[D, D]`, A.
      moment: `[D, C]`, B.
      gamma: the regulariser, which bounds the spectrum of A from below.
    """

    weight: Array
    gram: Array
    moment: Array
    gamma: Array


def init(num_features: int, num_classes: int, gamma: float, dtype) -> GramState:
    """Before any data: `A = gamma I`, `B = 0`."""
    zeros = jnp.zeros((num_features, num_classes), dtype)
    gamma = jnp.asarray(gamma, dtype)
    return GramState(zeros, gamma * jnp.eye(num_features, dtype=dtype), zeros, gamma)


def accumulate(state: GramState, features: Array, targets: Array, sign: int) -> GramState:
    """A and B with a block added or subtracted; the weight is out of date until `refresh`."""
    gram = state.gram + sign * features.T @ features
    return state._replace(gram=gram, moment=state.moment + sign * features.T @ targets)


def refresh(state: GramState) -> tuple[GramState, Array]:
    """The state with its weight solved for, and whether A still is gamma I plus a sum of squares.

    `D^3 / 3` multiplications each for the solution and for the check.
    """
    factor = jax.scipy.linalg.cho_factor(state.gram, lower=True)
    weight = jax.scipy.linalg.cho_solve(factor, state.moment)
    eye = jnp.eye(state.gram.shape[0], dtype=state.gram.dtype)
    rest = jnp.linalg.cholesky(state.gram - (1 - _SLACK) * state.gamma * eye)
    return state._replace(weight=weight), jnp.isfinite(rest[-1, -1]) & jnp.isfinite(weight).all()
