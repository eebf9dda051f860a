"""TRAK: attribution by randomly projected gradients of trained models.

Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023 (arXiv 2303.14186).
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks, training
from unlearnjax import data as data_lib
from unlearnjax.analytic import precision
from unlearnjax.attribution.outputs import Output, margin_output
from unlearnjax.types import Array, Data, Task, Variables


def _signs(key: Array, shape: tuple[int, int], dtype) -> Array:
    """Random +-1, 32 of them from each random word: drawing them dominates the projection."""
    rows, columns = shape
    words = jax.random.bits(key, (rows, -(-columns // 32)), jnp.uint32)
    bits = (words[..., None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return (2 * bits.reshape(rows, -1)[:, :columns].astype(jnp.int8) - 1).astype(dtype)


PROJECTIONS = {"rademacher": _signs, "gaussian": jax.random.normal}
_BLOCK = 1 << 14
# Some thirty times the rounding of float32, which also sums up over parameters.
_KNOWN = 2.0**-18


class Trak(NamedTuple):
    """Attribution scores.

    Attributes:
      scores: `[n_eval, C, N]`; the predicted change of an output by *adding* a training example.
    """

    scores: Array


def trak(
    task: Task,
    models: Sequence[Variables],
    train: Data,
    evaluation: Data,
    rng: Array,
    *,
    output: Output = margin_output,
    num_projections: int = 512,
    projection: str = "rademacher",
    batch_size: int = 64,
    damping: float = 0.0,
) -> Trak:
    """Scores of every training example for the outputs of every evaluation example.

    For one checkpoint, with projected gradients `phi(x)` of the output and `Phi` `[N, k]` those of
    the training set's margins: `tau(x) = phi(x)' (Phi' Phi)^-1 Phi' Q`, `Q = diag(1 - p_i)`, p the
    probability of the true class. Over checkpoints the first part and Q are averaged, then
    multiplied.

    The inverse is computed in float64 and damped, besides `damping`, by `2^-36 |Phi' Phi|` (the
    Frobenius norm): singular values of Phi below `2^-18` of the largest are rounding of float32
    gradients. So directions that the gradients do not have count nothing, as in the pseudo-inverse,
    and a projection wider than their rank gives what the unprojected gradients give; where
    `Phi' Phi` is well conditioned it changes nothing. (The published code inverts undamped by
    default, and wants k below the rank.)

    Args:
      task: of classification.
      models: variables of independently trained models.
      train: `[N, ...]`, what they were trained on.
      evaluation: `[n_eval, ...]` with targets.
      rng: key of the projections, the same for all models.
      output: what is attributed; the paper's is the margin.
      num_projections: k. With N or more the training outputs are interpolated and scores say little
        about groups: that is warned of. With as many as there are parameters or more the gradients
        are taken as they are, exactly.
      projection: 'rademacher' or 'gaussian'.
      batch_size: gradients at once; memory is that times the number of parameters.
      damping: added to the diagonal of `Phi' Phi`, relative to its mean, >= 0.

    Returns:
      The scores. Cost: per model a backward pass over both sets and `k P` multiplications per
      example and output; memory `N k + n_eval C (k + N)`, never N x P.

    Raises:
      ValueError: for a value out of range.

    Warns:
      UserWarning: for k >= N, or no less than the number of parameters.
    """
    checks.at_least(1, num_projections=num_projections, batch_size=batch_size)
    checks.at_least(0, damping=damping)
    checks.one_of(projection=(projection, tuple(PROJECTIONS)))
    if not models:
        raise ValueError("models must be at least one, got none")
    num_train = data_lib.num_examples(train)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(models[0]["params"]))
    for what, limit in (("training examples", num_train), ("parameters", num_params)):
        if num_projections >= limit:
            warnings.warn(
                f"num_projections should be below the number of {what}, {limit}, got "
                f"{num_projections}",
                stacklevel=2,
            )
    width = num_projections if num_projections < num_params else None

    @jax.jit
    def one(variables):
        project = partial(
            project_gradients,
            task,
            variables,
            rng=rng,
            num_projections=width,
            projection=projection,
            batch_size=batch_size,
        )
        phi, phi_eval = project(train)[:, 0], project(evaluation, output=output)
        scores = _estimate(phi, phi_eval, damping)
        confidence = training.evaluate(task, variables, train, batch_size=batch_size)["confidence"]
        return scores, 1 - confidence

    parts = [one(variables) for variables in models]
    scores, weight = (sum(p) / len(models) for p in zip(*parts, strict=True))
    return Trak(scores * weight)


@precision.float64
def _estimate(phi: Array, phi_eval: Array, damping: float) -> Array:
    """`[n_eval, C, N]`: `phi_eval (Phi' Phi)^-1 Phi'`, damped; float32."""
    dtype = phi.dtype
    phi, phi_eval = phi.astype(jnp.float64), phi_eval.astype(jnp.float64)
    n, k = phi.shape
    # (Phi' Phi + c I)^-1 Phi' = Phi' (Phi Phi' + c I)^-1: the smaller of the two.
    kernel = jax.lax.dot(phi.T, phi) if k <= n else jax.lax.dot(phi, phi.T)
    known = _KNOWN**2 * jnp.linalg.norm(kernel)
    constant = damping * jnp.trace(kernel) / k + known + jnp.finfo(jnp.float64).tiny
    factor = jax.scipy.linalg.cho_factor(kernel + constant * jnp.eye(len(kernel)), lower=True)
    solve = partial(jax.scipy.linalg.cho_solve, factor)
    solved = solve(phi.T) if k <= n else solve(phi).T
    return jax.lax.dot_general(phi_eval, solved, (((2,), (0,)), ((), ()))).astype(dtype)


def project_gradients(
    task: Task,
    variables: Variables,
    data: Data,
    rng: Array,
    *,
    num_projections: int | None,
    projection: str = "rademacher",
    batch_size: int = 64,
    output: Output = margin_output,
) -> Array:
    """`[N, C, k]`: gradients of outputs by the parameters, under a random projection; float32.

    Entries of the projection are +-1/sqrt(k) (or normal of that deviation), made from the key block
    by block of parameters: neither it nor the gradients of all examples ever exist at once. By the
    Johnson-Lindenstrauss lemma inner products are kept up to about `1/sqrt(k)` of the norms.

    Args:
      task, variables: the model, in evaluation mode.
      data: `[N, ...]`.
      rng: key; equal keys give equal projections.
      num_projections: k; `None` leaves them as they are, k being the number of parameters.
      projection: 'rademacher' or 'gaussian'.
      batch_size: examples at once; memory is that times C times the number of parameters.
      output: `[B, C]`, whose gradients are taken.
    """

    def gradient(example):
        batch = {name: value[None] for name, value in example.items()}
        of = lambda params: output(task, {**variables, "params": params}, batch)[0]
        return jax.jacrev(of)(variables["params"])

    def per_batch(batch):
        gradients = [
            leaf.astype(jnp.float32) for leaf in jax.tree.leaves(jax.vmap(gradient)(batch))
        ]
        if num_projections is None:
            return jnp.concatenate([g.reshape(*g.shape[:2], -1) for g in gradients], axis=-1)
        keys = jax.random.split(rng, len(gradients))
        total = 0.0
        for key, leaf in zip(keys, gradients, strict=True):
            size, count = leaf.shape[:2]
            rows = leaf.reshape(size * count, -1)
            projected = _project(key, rows, num_projections, projection)
            total += projected.reshape(size, count, num_projections)
        return total

    return training.map_batches(per_batch, data, batch_size)


def _project(key: Array, rows: Array, k: int, projection: str) -> Array:
    """`rows [B, P]` times a random matrix `[P, k] / sqrt(k)`, in blocks of parameters."""
    width = rows.shape[1]
    block = min(_BLOCK, width)
    padded = jnp.pad(rows, ((0, 0), (0, -width % block)))
    parts = padded.reshape(rows.shape[0], -1, block).swapaxes(0, 1)

    def add(total, numbered):
        number, part = numbered
        draw = PROJECTIONS[projection]
        return total + part @ draw(jax.random.fold_in(key, number), (block, k), rows.dtype), None

    zeros = jnp.zeros((rows.shape[0], k), rows.dtype)
    return jax.lax.scan(add, zeros, (jnp.arange(len(parts)), parts))[0] * k**-0.5
