"""Sparsity makes unlearning easier: L1-sparse fine-tuning, and pruning before any method.

Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023 (arXiv 2304.04934).
"""

import jax
import jax.numpy as jnp
import optax

from unlearnjax import data as data_lib
from unlearnjax.types import PyTree, Request, Task, Unlearner, Variables
from unlearnjax.unlearning import transforms
from unlearnjax.unlearning.chain import chain
from unlearnjax.unlearning.descend import init_nothing
from unlearnjax.unlearning.finetune import finetune

SCORES = ("magnitude", "synflow")


def l1_sparse(
    tx: optax.GradientTransformation,
    *,
    gamma: float = 5e-4,
    num_epochs: int = 10,
    batch_size: int = 128,
) -> Unlearner:
    """Fine-tunes on the retain set with an L1 penalty that decays linearly to zero.

    Args:
      tx: optax transformation.
      gamma: penalty coefficient at the first step, >= 0.
      num_epochs: passes over the retain set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs retain data and labels.

    Raises:
      ValueError: for a value out of range.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")

    def with_penalty(rng, task: Task, variables: Variables, request: Request):
        del rng, task, variables
        n = data_lib.num_examples(request.retain)
        steps = num_epochs * data_lib.steps_per_epoch(n, min(batch_size, n))
        return optax.chain(transforms.add_l1(optax.linear_schedule(gamma, 0.0, steps)), tx)

    return finetune(with_penalty, num_epochs=num_epochs, batch_size=batch_size)


def prune(sparsity: float = 0.95, *, score: str = "magnitude", rounds: int = 100) -> Unlearner:
    """Sets the share `sparsity` of the weights with the lowest scores to zero, over all layers.

    Weights are parameters with two axes or more; biases and norms are kept. Compose it:
    `chain(prune(0.95), finetune(keep_zeros(tx)))`.

    Args:
      sparsity: share of the weights to remove, in [0, 1).
      score: 'magnitude' (one shot) or 'synflow' (data-free: `theta * d R / d theta` with R the sum
        of the outputs of the network with absolute weights on an input of ones, in `rounds` rounds
        of exponentially growing sparsity; Tanaka et al., NeurIPS 2020).
      rounds: for 'synflow'.

    Returns:
      An unlearner that needs the retain set, of which it reads the shape of one example.

    Raises:
      ValueError: for a value out of range.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    if score not in SCORES:
        raise ValueError(f"score must be one of {SCORES}, got {score!r}")

    def update(rng, task, variables, memory, request: Request):
        del rng
        params = variables["params"]
        if score == "magnitude":
            mask = _keep_largest(jax.tree.map(jnp.abs, params), 1 - sparsity)
        else:
            example = data_lib.take(request.retain, jnp.zeros(1, jnp.int32))
            mask = synflow_mask(task, variables, example, sparsity, rounds)
        return {**variables, "params": jax.tree.map(jnp.multiply, params, mask)}, memory

    return Unlearner(init_nothing, update, frozenset({"retain"}))


def prune_finetune(
    tx: optax.GradientTransformation,
    *,
    sparsity: float = 0.95,
    score: str = "magnitude",
    num_epochs: int = 10,
    batch_size: int = 128,
) -> Unlearner:
    """Prune first, then fine-tune what is left: `chain(prune(...), finetune(keep_zeros(tx)))`.

    Args:
      tx, num_epochs, batch_size: of `finetune`.
      sparsity, score: of `prune`.

    Returns:
      An unlearner that needs retain data and labels.
    """
    return chain(
        prune(sparsity, score=score),
        finetune(keep_zeros(tx), num_epochs=num_epochs, batch_size=batch_size),
    )


def keep_zeros(tx: optax.GradientTransformation):
    """`tx` for `descend` on a pruned model: what is zero at the request stays zero."""

    def transform(rng, task, variables: Variables, request):
        del rng, task, request
        mask = jax.tree.map(
            lambda p: (p != 0).astype(jnp.float32) if p.ndim > 1 else jnp.ones(p.shape),
            variables["params"],
        )
        return transforms.masked(tx, mask)

    return transform


def synflow_mask(task: Task, variables: Variables, example, sparsity: float, rounds: int) -> PyTree:
    """0/1 tree like the parameters, see `prune`."""
    ones = {**example, "inputs": jnp.ones_like(example["inputs"])}
    magnitudes = jax.tree.map(jnp.abs, variables["params"])

    def flow(params):
        outputs, _ = task.apply({**variables, "params": params}, ones, None, False)
        return outputs["logits"].sum()

    def one_round(mask, number):
        params = jax.tree.map(jnp.multiply, magnitudes, mask)
        scores = jax.tree.map(lambda p, g: p * g, params, jax.grad(flow)(params))
        keep = (1 - sparsity) ** ((number + 1) / rounds)
        return _keep_largest(scores, keep), None

    everything = jax.tree.map(lambda p: jnp.ones(p.shape), magnitudes)
    return jax.lax.scan(one_round, everything, jnp.arange(rounds))[0]


def sparsity_of(params: PyTree) -> jax.Array:
    """Share of zeros among the weights (parameters with two axes or more)."""
    weights = [p for p in jax.tree.leaves(params) if p.ndim > 1]
    return sum(jnp.sum(p == 0) for p in weights) / sum(p.size for p in weights)


def _keep_largest(scores: PyTree, keep) -> PyTree:
    """Mask of the share `keep` (may be traced) of the weights with the largest scores."""
    flat = jnp.sort(jnp.concatenate([s.ravel() for s in jax.tree.leaves(scores) if s.ndim > 1]))
    count = jnp.clip(jnp.round(keep * flat.size), 1, flat.size).astype(jnp.int32)
    threshold = flat[flat.size - count]
    return jax.tree.map(
        lambda s: (s >= threshold).astype(jnp.float32) if s.ndim > 1 else jnp.ones(s.shape), scores
    )
