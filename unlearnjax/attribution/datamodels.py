"""Datamodels: outputs of a training run as a linear function of which examples it had.

Ilyas et al., "Datamodels: Predicting Predictions from Training Data", ICML 2022.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.types import Array

LAMBDAS = tuple(10.0**e for e in range(-2, 7))


class Datamodels(NamedTuple):
    """Linear models of K outputs over N training examples, kept in the space of M subsets.

    Weights are `masks' dual`: `[N, K]`, made only for the examples that are asked for.

    Attributes:
      masks: `[M, N]`, centred inclusion masks.
      dual: `[M, K]`.
      center: `[N]`, mean inclusion of every example.
      mean: `[K]`, mean output over subsets.
      penalty: `[K]`, the lambda chosen for every output.
    """

    masks: Array
    dual: Array
    center: Array
    mean: Array
    penalty: Array


def fit_datamodels(
    masks: Array, outputs: Array, lambdas: tuple[float, ...] = LAMBDAS
) -> Datamodels:
    """Ridge regression of every output on the inclusion masks, lambda by leave-one-out error.

    One eigendecomposition of the `[M, M]` kernel serves all outputs and all lambdas; leave-one-out
    residuals are in closed form.

    Args:
      masks: `[M, N]` bool or 0/1.
      outputs: `[M, K]`, e.g. margins or logits of K evaluation outputs.
      lambdas: candidates, > 0.

    Returns:
      The models. Cost: `M^2 (N + K)`; memory `M (N + K)`.

    Raises:
      ValueError: for differing numbers of subsets, or a lambda that is not positive.
    """
    if masks.shape[0] != outputs.shape[0]:
        raise ValueError(
            f"masks and outputs must be of the same subsets, got {masks.shape[0]} and "
            f"{outputs.shape[0]}"
        )
    checks.positive(lambdas=min(lambdas))
    center, mean = masks.mean(0, dtype=jnp.float32), outputs.mean(0)
    x, y = masks - center, outputs - mean
    values, vectors = jnp.linalg.eigh(x @ x.T)
    values, rotated = jnp.maximum(values, 0), vectors.T @ y

    def with_penalty(penalty):
        """Dual coefficients `(X X' + lambda)^-1 y` and the mean squared leave-one-out residual."""
        inverse = 1 / (values + penalty)
        dual = vectors @ (inverse[:, None] * rotated)
        diagonal = jnp.sum(vectors**2 * inverse, axis=1)
        return dual, jnp.mean((dual / diagonal[:, None]) ** 2, axis=0)

    duals, errors = jax.lax.map(with_penalty, jnp.asarray(lambdas, x.dtype))
    best = jnp.argmin(errors, axis=0)
    dual = jnp.take_along_axis(duals, best[None, None, :], axis=0)[0]
    return Datamodels(x, dual, center, mean, jnp.asarray(lambdas, x.dtype)[best])


def predict_subsets(datamodels: Datamodels, masks: Array) -> Array:
    """`[S, K]`: predicted outputs of models trained on the subsets `masks` `[S, N]`."""
    kernel = (masks - datamodels.center) @ datamodels.masks.T
    return kernel @ datamodels.dual + datamodels.mean


def lasso(
    masks: Array, outputs: Array, penalty: float | Array, *, num_steps: int = 500
) -> tuple[Array, Array]:
    """Weights `[N, K]` and biases `[K]` of the paper's sparse regression, all outputs at once.

    Minimises `|y - X w - b|^2 / (2 M) + penalty |w|_1` by accelerated proximal gradient steps
    (Beck and Teboulle, FISTA, 2009), one compiled loop.

    Args:
      masks: `[M, N]`.
      outputs: `[M, K]`.
      penalty: scalar or `[K]`, >= 0.
      num_steps: of the solver; each costs two products of masks and weights.
    """
    checks.at_least(1, num_steps=num_steps)
    x, y = masks - masks.mean(0, dtype=jnp.float32), outputs - outputs.mean(0)
    size = x.shape[0]
    # Largest eigenvalue of X'X / M: the step that cannot overshoot.
    small = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    step = 1 / jnp.linalg.eigvalsh(small / size)[-1]

    def one(carry, _):
        weight, ahead, momentum = carry
        moved = ahead + step * x.T @ (y - x @ ahead) / size
        new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - step * penalty, 0)
        next_momentum = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / next_momentum * (new - weight)
        return (new, ahead, next_momentum), None

    zeros = jnp.zeros((x.shape[1], y.shape[1]), y.dtype)
    (weight, _, _), _ = jax.lax.scan(one, (zeros, zeros, jnp.float32(1)), length=num_steps)
    return weight, outputs.mean(0) - masks.mean(0, dtype=jnp.float32) @ weight
