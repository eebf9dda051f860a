"""Datamodels: outputs of a training run as a linear function of which examples it had.

Ilyas et al., "Datamodels: Predicting Predictions from Training Data", ICML 2022.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.analytic import precision
from unlearnjax.types import Array

LAMBDAS = tuple(10.0 ** (e / 2) for e in range(11))
# In units of the level at which noise alone selects about nothing.
PENALTIES = (4.0, 2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25)


class Datamodels(NamedTuple):
    """Linear models of outputs over N training examples.

    Attributes:
      weight: `[N, n_eval, C]`: what each example adds to each output.
      bias: `[n_eval, C]`.
      penalty: `[n_eval, C]`, the one chosen for each output.
    """

    weight: Array
    bias: Array
    penalty: Array


def ridge_datamodels(
    masks: Array, outputs: Array, *, lambdas: tuple[float, ...] = LAMBDAS
) -> Datamodels:
    """Ridge regression of every output on the inclusion masks, lambda by leave-one-out error.

    One eigendecomposition serves all outputs and all lambdas; leave-one-out residuals are in closed
    form. The best lambda for random subsets shrinks all weights alike; where an output depends on
    few examples, `lasso_datamodels` keeps their weights.

    Args:
      masks: `[M, N]` bool or 0/1.
      outputs: `[M, n_eval, C]`, e.g. logits of evaluation examples, or margins with C = 1.
      lambdas: candidates, > 0.

    Returns:
      The models. Cost: `min(M, N)^3` and `M min(M, N) n_eval C` per lambda; memory
      `(M + N) n_eval C`: call it on parts of the outputs where that is too much.

    Raises:
      ValueError: for wrong shapes, fewer than two subsets, a lambda that is not positive and,
        outside of compiled code, outputs that are not finite.

    Examples:
      >>> from unlearnjax import attribution
      >>> masks = jax.random.bernoulli(jax.random.key(0), 0.5, (200, 10))
      >>> outputs = (3.0 * masks[:, 4])[:, None, None]  # the output hangs on example 4
      >>> models = attribution.ridge_datamodels(masks, outputs)
      >>> attribution.predict_counterfactual(models, jnp.array([4])).round().tolist()
      [[-3.0]]
    """
    checks.positive(lambdas=min(lambdas))
    x, y, center, mean = _centred(masks, outputs)
    # Z = X V has the columns that the fit combines, V'V = 1 and Z'Z = diag(values).
    if x.shape[0] <= x.shape[1]:
        values, vectors = jnp.linalg.eigh(x @ x.T)
        values = jnp.maximum(values, 0)
        roots = jnp.sqrt(values)
        scores = vectors * roots
        # A direction without variance (the centring leaves one) gets no weight.
        safe = values > 1e-6 * values[-1]
        basis = x.T @ (vectors * jnp.where(safe, 1 / jnp.where(safe, roots, 1), 0))
    else:
        values, basis = jnp.linalg.eigh(x.T @ x)
        values = jnp.maximum(values, 0)
        scores = x @ basis
    projected = scores.T @ y

    def with_penalty(penalty):
        """Coefficients in the basis and the mean squared leave-one-out residual."""
        inverse = 1 / (values + penalty)
        coefficients = inverse[:, None] * projected
        leverage = 1 / len(x) + jnp.sum(scores**2 * inverse, axis=1)
        residual = (y - scores @ coefficients) / jnp.maximum(1 - leverage, 1e-6)[:, None]
        return jnp.mean(residual**2, axis=0)

    lambdas = jnp.asarray(lambdas, x.dtype)
    errors = jax.lax.map(with_penalty, lambdas)
    penalty = lambdas[jnp.argmin(errors, axis=0)]
    weight = basis @ (projected / (values[:, None] + penalty))
    return _shaped(weight, center, mean, penalty, jnp.shape(outputs)[1:])


def lasso_datamodels(
    masks: Array,
    outputs: Array,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    l1_ratio: float = 1.0,
    validation_share: float = 0.1,
    num_steps: int = 50,
) -> Datamodels:
    """The paper's sparse regression (LASSO, or elastic net), all outputs at once.

    Minimises `|y - X w - b|^2 / (2 M) + p (r |w|_1 + (1 - r) |w|^2 / 2)` by accelerated proximal
    gradient steps (Beck and Teboulle, FISTA, 2009). For every output p is the penalty with the
    smallest error on subsets that were held out; then all subsets are fitted with it.

    Args:
      masks: `[M, N]` bool or 0/1; the last subsets are held out.
      outputs: `[M, n_eval, C]`.
      penalties: candidates, > 0, tried from large to small, each going on from the one before. In
        units of `std(y) std(mask) sqrt(log(N) / M)`.
      l1_ratio: r, in [0, 1]; 1 is LASSO.
      validation_share: of the subsets, in (0, 1); unused for a single penalty.
      num_steps: of the solver, per penalty.

    Returns:
      The models, `penalty` being p. Cost: `M N^2`, and `N^2 n_eval C` per step; memory
      `5 N n_eval C`.

    Raises:
      ValueError: for wrong shapes, fewer than two subsets, a value out of range and, outside of
        compiled code, outputs that are not finite.
    """
    checks.positive(penalties=min(penalties))
    checks.share(l1_ratio=l1_ratio)
    checks.open_share(validation_share=validation_share)
    checks.at_least(1, num_steps=num_steps)
    x, y, center, mean = _centred(masks, outputs)
    size, width = x.shape
    spread = jnp.maximum(y.std(0), 1e-12)
    scale = spread * x.std() * jnp.sqrt(jnp.log(width) / size)
    kept = size - max(1, round(validation_share * size))
    best = jnp.full(y.shape[1], min(penalties), x.dtype)
    weight = jnp.zeros((width, y.shape[1]), x.dtype)

    if len(penalties) > 1:
        problem = _moments(x[:kept], y[:kept])

        def try_one(carry, level):
            weight, *found = carry
            weight = _proximal(*problem, level * scale, l1_ratio, weight, num_steps)
            error = jnp.mean((y[kept:] - x[kept:] @ weight) ** 2, axis=0)
            better = error < found[0]
            new = (error, jnp.full_like(error, level), weight)
            return (weight, *(jnp.where(better, n, f) for n, f in zip(new, found, strict=True))), ()

        levels = jnp.asarray(sorted(penalties, reverse=True), x.dtype)
        start = (weight, jnp.full(y.shape[1], jnp.inf, x.dtype), best, weight)
        (_, _, best, weight), _ = jax.lax.scan(try_one, start, levels)

    penalty = best * scale
    weight = _proximal(*_moments(x, y), penalty, l1_ratio, weight, num_steps)
    return _shaped(weight, center, mean, penalty, jnp.shape(outputs)[1:])


def _centred(masks: Array, outputs: Array):
    """`[M, N]` and `[M, K]` less their means, and the means; float32."""
    masks, outputs = (jnp.asarray(x) for x in (masks, outputs))
    if masks.ndim != 2 or masks.shape[0] < 2 or masks.shape[1] < 1:
        raise ValueError(f"masks must be [subsets, N] of at least 2 and 1, got {masks.shape}")
    if outputs.ndim != 3:
        raise ValueError(f"outputs must be [subsets, n_eval, C], got {outputs.shape}")
    if masks.shape[0] != outputs.shape[0]:
        raise ValueError(
            f"masks and outputs must be of the same subsets, got {masks.shape[0]} and "
            f"{outputs.shape[0]}"
        )
    for name, value in (("masks", masks), ("outputs", outputs)):
        if precision.broken(jnp.isfinite(value).all()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    y = outputs.astype(jnp.float32).reshape(outputs.shape[0], -1)
    center, mean = jnp.mean(masks, axis=0, dtype=jnp.float32), y.mean(0)
    return masks - center, y - mean, center, mean


def _shaped(weight, center, mean, penalty, shape) -> Datamodels:
    bias = mean - center @ weight
    return Datamodels(weight.reshape(-1, *shape), bias.reshape(shape), jnp.reshape(penalty, shape))


def _moments(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """`X'X / M`, `X'y / M`, and the largest step along the gradient that cannot overshoot."""
    gram = x.T @ x / len(x)
    # Masks that are all the same have no slope to overshoot on.
    return gram, x.T @ y / len(x), 1 / jnp.maximum(jnp.linalg.eigvalsh(gram)[-1], 1e-12)


def _proximal(gram, cross, step, penalty, l1_ratio, start, num_steps: int) -> Array:
    """FISTA on the elastic net with those moments."""
    threshold, shrink = step * penalty * l1_ratio, 1 + step * penalty * (1 - l1_ratio)

    def one(carry, _):
        weight, ahead, momentum = carry
        moved = ahead + step * (cross - gram @ ahead)
        new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - threshold, 0) / shrink
        next_momentum = (1 + jnp.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / next_momentum * (new - weight)
        return (new, ahead, next_momentum), None

    return jax.lax.scan(one, (start, start, jnp.float32(1)), length=num_steps)[0][0]
