"""The exact answer for ridge regression: the oracle of the other attributors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import analytic
from unlearnjax.analytic import precision
from unlearnjax.types import Array


class RidgeInfluence(NamedTuple):
    """What it takes to remove any rows from a ridge regression.

    Attributes:
      state: the closed-form head that has learned all rows, float64.
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

    Exact up to rounding of float64, in which it is computed; where that is not enough it is an
    error (in compiled code NaN), see `unlearnjax.analytic.precision`.

    Args:
      features: `[N, D]`; predictions have their type, float32 if that is not floating.
      targets: `[N, C]`.
      evaluation: `[n_eval, D]`.
      gamma: regulariser, > 0.

    Raises:
      ValueError: as `analytic.learn`.

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
    with jax.enable_x64(True):  # else what comes in float64 would be rounded here
        features, targets, evaluation = (jnp.asarray(x) for x in (features, targets, evaluation))
    for name, value in (("features", features), ("targets", targets), ("evaluation", evaluation)):
        if value.ndim != 2:
            raise ValueError(f"{name} must have two axes, got shape {value.shape}")
    if evaluation.shape[1] != features.shape[1]:
        raise ValueError(f"evaluation must be [n, {features.shape[1]}], got {evaluation.shape}")
    state = analytic.init(features.shape[1], targets.shape[1], gamma, dtype=jnp.float64)
    return RidgeInfluence(analytic.learn(state, features, targets), features, targets, evaluation)


@precision.float64
def change(attributor: RidgeInfluence, rows: Array, weights: Array) -> Array:
    """`[n_eval, C]`: of the predictions, without the rows at `rows` `[F]`, each to its weight."""
    state, features, targets, evaluation = attributor
    left = analytic.forget(state, features[rows], targets[rows], weights)
    changed = jax.lax.dot(evaluation.astype(jnp.float64), left.weight - state.weight)
    return changed.astype(precision.floating(features))
