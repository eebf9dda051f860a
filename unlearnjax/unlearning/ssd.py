"""Selective synaptic dampening, and its variants without labels and without a threshold to tune.

Foster, Schoepf, Brintrup, "Fast Machine Unlearning Without Retraining Through Selective Synaptic
Dampening", AAAI 2024 (arXiv 2308.07707).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks, curvature
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Data, PyTree, Request, Task, Unlearner, Variables

IMPORTANCES = ("exact", "batch")


class SSDMemory(NamedTuple):
    """What is kept of the training data.

    Attributes:
      importance: of every parameter, a tree like them, float32.
      num_train: how many examples there were.
    """

    importance: PyTree
    num_train: Array


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

    Examples:
      >>> theta, of_forget, of_train = jnp.array([[2.0, 2.0], [8.0, 1.0], [1.0, 1.0]])
      >>> dampen(theta, of_forget, of_train, alpha=4.0, dampening=1.0).tolist()
      [0.25, 2.0]
    """

    def leaf(theta: Array, forget: Array, train: Array) -> Array:
        selected = forget > alpha * train
        # 0/0 must not reach the result, nor denormals, which the hardware may flush to 0.
        ratio = dampening * train / jnp.maximum(forget, jnp.finfo(forget.dtype).tiny)
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

    A few examples, even ones that are classified rightly, can hold most of the forget set's
    importance (`curvature.fisher_trace_shares`), so that what one alpha does differs from model to
    model. Where like examples are retained, as the other half of a class, it forgets these too.

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

    Examples:
      >>> from unlearnjax import models, tasks, unlearning
      >>> from unlearnjax.types import Request
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> inputs = jax.random.normal(jax.random.key(1), (12, 4))
      >>> data = {"inputs": inputs, "targets": jnp.arange(12) % 3}
      >>> variables = task.init(jax.random.key(0), data)
      >>> method = unlearning.ssd(alpha=2.0)
      >>> variables, memory = method.init(None, task, variables, data)  # all training data at hand
      >>> request = Request(forget={name: value[:3] for name, value in data.items()})
      >>> variables, memory = method.update(None, task, variables, memory, request)
    """
    _validate(alpha, dampening, batch_size)
    checks.one_of(importance=(importance, IMPORTANCES))

    def importances(task: Task, variables: Variables, data: Data) -> PyTree:
        size = min(batch_size, data_lib.num_examples(data))
        if importance == "batch":
            return curvature.batch_gradient_squared(task, variables, data, batch_size=size)
        return curvature.fisher_diagonal(task, variables, data, batch_size=size)

    return _dampening(importances, lambda forget, train, share: alpha, dampening)


def loss_free_ssd(
    alpha: float = 10.0, dampening: float = 1.0, *, batch_size: int = 16
) -> Unlearner:
    """SSD without labels: importance is the gradient of the squared norm of the logits.

    Args:
      alpha, dampening: see `ssd`.
      batch_size: examples per pass; the result does not depend on it. Memory: that many gradients.

    Returns:
      An unlearner that needs the training data at `init`, then forget data, no labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Foster et al., "Loss-Free Machine Unlearning", 2024 (arXiv 2402.19308).
    """
    _validate(alpha, dampening, batch_size)

    def importances(task: Task, variables: Variables, data: Data) -> PyTree:
        size = min(batch_size, len(data["inputs"]))
        return curvature.output_sensitivity(task, variables, data, batch_size=size)

    method = _dampening(importances, lambda forget, train, share: alpha, dampening)
    return method._replace(needs=frozenset({"train", "forget", "inputs"}))


def adaptive_ssd(*, dampening: float = 1.0, batch_size: int = 128) -> Unlearner:
    """SSD that sets alpha itself, from the share of the data that is to be forgotten.

    `alpha` is the P-th percentile over all parameters of the ratio of forget to training
    importance, `P = 100 - ln(1 + 100 |forget| / |train|)`; parameters without importance to either
    are left out.

    Args:
      dampening, batch_size: see `ssd`.

    Returns:
      An unlearner that needs the training data at `init`, then forget data and labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Schoepf et al., "Parameter-Tuning-Free Data Entry Error Unlearning with Adaptive Selective
      Synaptic Dampening", 2024 (arXiv 2402.10098).
    """
    _validate(1.0, dampening, batch_size)

    def importances(task: Task, variables: Variables, data: Data) -> PyTree:
        size = min(batch_size, data_lib.num_examples(data))
        return curvature.fisher_diagonal(task, variables, data, batch_size=size)

    return _dampening(importances, adaptive_alpha, dampening)


def adaptive_alpha(forget_fisher: PyTree, train_fisher: PyTree, share: Array) -> Array:
    """The threshold of `adaptive_ssd`; `share` is |forget| / |train|."""

    def ratio(forget: Array, train: Array) -> Array:
        # Finite, since interpolation beside infinity is no number, and dampening would select none.
        bounded = jnp.minimum(forget / train, jnp.finfo(forget.dtype).max)
        return jnp.where((forget == 0) & (train == 0), jnp.nan, bounded)

    ratios = jax.tree.map(ratio, forget_fisher, train_fisher)
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(ratios)])
    return jnp.nanpercentile(flat, 100 - jnp.log(1 + 100 * share))


def _dampening(importances: Callable, threshold: Callable, dampening: float) -> Unlearner:
    """Importances at `init`, `dampen` at `update` with alpha from `threshold`."""

    def init(rng, task, variables, data):
        del rng
        size = jnp.asarray(data_lib.num_examples(data), jnp.float32)
        return variables, SSDMemory(importances(task, variables, data), size)

    def update(rng, task, variables, memory, request: Request):
        del rng
        forget = importances(task, variables, request.forget)
        share = data_lib.num_examples(request.forget) / memory.num_train
        alpha = threshold(forget, memory.importance, share)
        params = dampen(variables["params"], forget, memory.importance, alpha, dampening)
        return {**variables, "params": params}, memory

    return Unlearner(init, update, frozenset({"train", "forget", "inputs", "labels"}))


def _validate(alpha: float, dampening: float, batch_size: int) -> None:
    checks.positive(alpha=alpha)
    checks.at_least(0, dampening=dampening)
    checks.at_least(1, batch_size=batch_size)
