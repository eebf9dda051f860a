"""The stable form: sums of outer products, which learning adds to and forgetting subtracts from.

`A = H'H + gamma I` and `B = H'Y` are exact sums, so that their error does not grow from call to
call beyond rounding of the sums themselves; the weight is solved anew from them by Cholesky. See
`precision` for what is computed how.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax.analytic import precision
from unlearnjax.types import Array

# How far below gamma the spectrum of what is left may fall, as a share of gamma.
_SLACK = 1e-2


class GramState(NamedTuple):
    """All that is kept of the data.

    Attributes:
      weight: `[D, C]`, the solution of `A W = B`, in the type that was asked for.
      gram: `[D, D]`, A, float64.
      moment: `[D, C]`, B, float64.
      gamma: the regulariser, which bounds the spectrum of A from below, float64.
    """

    weight: Array
    gram: Array
    moment: Array
    gamma: Array


def init(num_features: int, num_classes: int, gamma: float, dtype) -> GramState:
    """Before any data: `A = gamma I`, `B = 0`."""
    shape = (num_features, num_classes)
    gamma = jnp.asarray(gamma, jnp.float64)
    gram = gamma * jnp.eye(num_features, dtype=jnp.float64)
    return GramState(jnp.zeros(shape, dtype), gram, jnp.zeros(shape, jnp.float64), gamma)


def accumulate(state: GramState, features: Array, targets: Array, sign: int) -> GramState:
    """A and B with a block added or subtracted; the weight is out of date until `refresh`."""
    gram = state.gram + sign * jax.lax.dot(features.T, features)
    return state._replace(gram=gram, moment=state.moment + sign * jax.lax.dot(features.T, targets))


def refresh(state: GramState, peak: Array) -> tuple[GramState, Array, Array]:
    """The state with its weight solved for, whether that is accurate, and whether A can be right.

    A must be gamma I plus a sum of squares; accurate is what rounding next to `peak` `[D]`, the
    largest diagonal that A had, does not touch. `D^3 / 3` multiplications each for the solution and
    for the check.
    """
    lost = precision.rounded_away(peak)
    factor, lower = jax.scipy.linalg.cho_factor(state.gram, lower=True)
    weight = jax.scipy.linalg.cho_solve((factor, lower), state.moment)
    accurate = (jnp.diagonal(factor) ** 2 > lost).all() & jnp.isfinite(weight).all()
    rest = state.gram - jnp.diag((1 - _SLACK) * state.gamma - lost)
    possible = jnp.isfinite(jnp.linalg.cholesky(rest)[-1, -1])
    return state._replace(weight=weight.astype(state.weight.dtype)), accurate, possible
