"""Selective synaptic dampening.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening", AAAI 2024 (arXiv 2308.07707).
"""

import jax
import jax.numpy as jnp

from unlearnjax import curvature
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables

IMPORTANCES = ("exact", "batch")


def dampen(
    params: PyTree, forget_fisher: PyTree, train_fisher: PyTree, alpha: float, dampening: float
) -> PyTree:
    """Shrinks the parameters that matter far more to the forget set than to the training set.

    Where `F_forget > alpha F_train`: `theta <- min(dampening F_train / F_forget, 1) theta`;
    elsewhere unchanged. Never enlarges a parameter, never flips its sign.

    Args:
      params: theta.
      forget_fisher, train_fisher: importances, trees like `params`, non-negative.
      alpha: selection threshold, >= 0; larger selects fewer.
      dampening: lambda of the paper, >= 0; smaller shrinks more.

    Returns:
      A tree like `params`, same dtypes.
    """

    def leaf(theta: Array, forget: Array, train: Array) -> Array:
        selected = forget > alpha * train
        # Not selected: no division, so that 0/0 of unused parameters cannot reach the result.
        ratio = dampening * train / jnp.where(selected, forget, 1.0)
        return jnp.where(selected, jnp.minimum(ratio, 1.0) * theta, theta).astype(theta.dtype)

    return jax.tree.map(leaf, params, forget_fisher, train_fisher)


def ssd(
    alpha: float = 10.0,
    dampening: float = 1.0,
    *,
    importance: str = "exact",
    batch_size: int = 128,
) -> Unlearner:
    """Selective synaptic dampening: one pass over the forget set, no retain data, one shot.

    `init` computes the importances of the training data and keeps them as memory (one float per
    parameter); the data is not needed again. The importances are not updated between requests, as
    in the paper.

    Args:
      alpha: selection threshold, > 0; see `dampen`. Depends on the model: sweep it.
      dampening: lambda of the paper, >= 0.
      importance: 'exact' is the per-example Fisher diagonal, which does not depend on the batch
        size; 'batch' squares batch-mean gradients as the published code does (its alpha and
        dampening hold for its batch size only).
      batch_size: examples per pass; part of the definition for 'batch' only, and there capped at
        the size of the forget set.

    Returns:
      An unlearner that needs the training data at `init`, then forget data and labels.

    Raises:
      ValueError: for a value out of range.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be > 0, got {alpha}")
    if not dampening >= 0:
        raise ValueError(f"dampening must be >= 0, got {dampening}")
    if importance not in IMPORTANCES:
        raise ValueError(f"importance must be one of {IMPORTANCES}, got {importance!r}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")

    def importances(task: Task, variables: Variables, data: Data) -> PyTree:
        size = min(batch_size, len(data["targets"]))
        if importance == "batch":
            return curvature.batch_gradient_squared(task, variables, data, batch_size=size)
        return curvature.fisher_diagonal(task, variables, data, batch_size=size)

    def init(rng, task, variables, data):
        del rng
        return variables, importances(task, variables, data)

    def update(rng, task, variables, memory, request: Request):
        del rng
        forget_fisher = importances(task, variables, request.forget)
        params = dampen(variables["params"], forget_fisher, memory, alpha, dampening)
        return {**variables, "params": params}, memory

    return Unlearner(init, update, frozenset({"train", "forget", "labels"}))
