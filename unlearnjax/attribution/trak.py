"""TRAK: attribution by randomly projected gradients of trained models.

Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023 (arXiv 2303.14186).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks, tasks, training
from unlearnjax.types import Array, Batch, Data, Task, Variables

# (task, variables, one-example batch) -> the scalar that is attributed
Output = Callable[[Task, Variables, Batch], Array]
_BLOCK = 1 << 14


class Trak(NamedTuple):
    """Attribution scores.

    Attributes:
      scores: `[n_eval, N]`; the predicted change of an output by *adding* a training example.
    """

    scores: Array


def trak(
    task: Task,
    models: Sequence[Variables],
    train: Data,
    evaluation: Data,
    rng: Array,
    *,
    num_projections: int = 512,
    batch_size: int = 64,
    damping: float = 0.0,
) -> Trak:
    """Scores of every training example for the margin of every evaluation example.

    For one checkpoint, with projected gradients `phi` of the margin and `Phi` `[N, k]` those of the
    training set: `tau(x) = phi(x)' (Phi' Phi)^-1 Phi' Q`, `Q = diag(1 - p_i)`, p the probability of
    the true class. Over checkpoints the first part and Q are averaged, then multiplied.

    Args:
      task: of classification.
      models: variables of independently trained models.
      train: `[N, ...]`, what they were trained on.
      evaluation: `[n_eval, ...]` with targets.
      rng: key of the projections, the same for all models.
      num_projections: k; below N.
      batch_size: gradients at once; memory is that times the number of parameters.
      damping: added to the diagonal of `Phi' Phi`, relative to its mean, >= 0.

    Returns:
      The scores. Cost: per model a backward pass over both sets and `k P` multiplications per
      example; memory `(N + n_eval) (k + N)`, never N x P.

    Raises:
      ValueError: for a value out of range.
    """
    checks.at_least(1, num_projections=num_projections, batch_size=batch_size)
    checks.at_least(0, damping=damping)
    if not models:
        raise ValueError("models must be at least one, got none")

    @jax.jit
    def one(variables):
        project = lambda data: project_gradients(
            task, variables, data, rng, num_projections=num_projections, batch_size=batch_size
        )
        phi, phi_eval = project(train), project(evaluation)
        kernel = phi.T @ phi
        eye = jnp.eye(num_projections)
        kernel += (damping * jnp.trace(kernel) / num_projections + 1e-10) * eye
        scores = phi_eval @ jnp.linalg.solve(kernel, phi.T)
        confidence = training.evaluate(task, variables, train, batch_size=batch_size)["confidence"]
        return scores, 1 - confidence

    parts = [one(variables) for variables in models]
    scores, weight = (sum(p) / len(models) for p in zip(*parts, strict=True))
    return Trak(scores * weight)


def margin_output(task: Task, variables: Variables, batch: Batch) -> Array:
    """The log-odds of the true class, `log(p / (1 - p))`."""
    outputs, _ = task.apply(variables, batch, None, False)
    return tasks.margin(outputs["logits"], batch["targets"])[0]


def project_gradients(
    task: Task,
    variables: Variables,
    data: Data,
    rng: Array,
    *,
    num_projections: int,
    batch_size: int = 64,
    output: Output = margin_output,
) -> Array:
    """`[N, k]`: gradients of an output by the parameters, under a random projection.

    Entries of the projection are +-1/sqrt(k) (Rademacher), made from the key block by block of
    parameters: neither it nor the gradients of all examples ever exist at once. By the Johnson-
    Lindenstrauss lemma inner products are kept up to about `1/sqrt(k)` of the norms.

    Args:
      task, variables: the model, in evaluation mode.
      data: `[N, ...]`.
      rng: key; equal keys give equal projections.
      num_projections: k.
      batch_size: examples at once.
      output: the scalar whose gradient is taken.
    """

    def gradient(example):
        batch = {name: value[None] for name, value in example.items()}
        return jax.grad(lambda params: output(task, {**variables, "params": params}, batch))(
            variables["params"]
        )

    def per_batch(batch):
        gradients = jax.tree.leaves(jax.vmap(gradient)(batch))
        keys = jax.random.split(rng, len(gradients))
        total = 0.0
        for key, leaf in zip(keys, gradients, strict=True):
            total += _project(key, leaf.reshape(leaf.shape[0], -1), num_projections)
        return total

    return training.map_batches(per_batch, data, batch_size)


def _project(key: Array, rows: Array, k: int) -> Array:
    """`rows [B, P]` times a Rademacher matrix `[P, k] / sqrt(k)`, in blocks of parameters."""
    width = rows.shape[1]
    block = min(_BLOCK, width)
    padded = jnp.pad(rows, ((0, 0), (0, -width % block)))
    parts = padded.reshape(rows.shape[0], -1, block).swapaxes(0, 1)

    def add(total, numbered):
        number, part = numbered
        signs = jax.random.rademacher(jax.random.fold_in(key, number), (block, k), rows.dtype)
        return total + part @ signs, None

    zeros = jnp.zeros((rows.shape[0], k), rows.dtype)
    return jax.lax.scan(add, zeros, (jnp.arange(len(parts)), parts))[0] * k**-0.5
