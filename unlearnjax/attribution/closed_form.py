"""The exact answer for ridge regression: the oracle of the other attributors."""

from typing import NamedTuple

import jax.numpy as jnp

from unlearnjax import analytic
from unlearnjax.types import Array


class RidgeInfluence(NamedTuple):
    """What it takes to remove any rows from a ridge regression.

    Attributes:
      state: the closed-form head that has learned all rows.
      features, targets: the training rows, `[N, D]` and `[N, C]`.
      evaluation: features of the evaluation points, `[n_eval, D]`.
    """

    state: analytic.GramState
    features: Array
    targets: Array
    evaluation: Array


def ridge_influence(
    features: Array, targets: Array, evaluation: Array, gamma: float = 0.1
) -> RidgeInfluence:
    """Fits the regression; `predict_counterfactual` is then exact for every forget set.

    Args:
      features: `[N, D]`; the computation is in their dtype.
      targets: `[N, C]`.
      evaluation: `[n_eval, D]`.
      gamma: regulariser, > 0.

    Examples:
      >>> from unlearnjax import analytic, attribution
      >>> x, y = jax.random.normal(jax.random.key(0), (30, 4)), jnp.eye(2)[jnp.arange(30) % 2]
      >>> attributor = attribution.ridge_influence(x, y, evaluation=x[:3])
      >>> change = attribution.predict_counterfactual(attributor, jnp.array([0, 7]))
      >>> kept = jnp.delete(jnp.arange(30), jnp.array([0, 7]))
      >>> retrained = x[:3] @ (analytic.solve(x[kept], y[kept]) - analytic.solve(x, y))
      >>> bool(jnp.allclose(change, retrained, atol=1e-5))
      True
    """
    dtype = jnp.asarray(features).dtype
    state = analytic.init(features.shape[1], targets.shape[1], gamma, dtype=dtype)
    state = analytic.learn(state, features, targets)
    return RidgeInfluence(state, features, targets, evaluation)
