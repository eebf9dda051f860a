"""Influence functions: the first-order effect of training examples, from trained models alone.

Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unlearnjax import checks, curvature, training, trees
from unlearnjax import data as data_lib
from unlearnjax.attribution.outputs import Output, margin_output
from unlearnjax.types import Array, Data, Task, Variables

METHODS = ("cg", "lissa", "ekfac")


class Influence(NamedTuple):
    """What it takes to predict the removal of any examples.

    Attributes:
      change: `[N]` weights of removal (1: gone, 0: kept) to the change `[n_eval, C]`; a pytree.
      like: `[N]`, for its shape.
    """

    change: jax.tree_util.Partial
    like: Array


def influence(
    task: Task,
    models: Sequence[Variables],
    train: Data,
    evaluation: Data,
    *,
    output: Output = margin_output,
    method: str = "cg",
    damping: float = 0.01,
    num_steps: int = 50,
    scale: float = 10.0,
    rng: Array | None = None,
    batch_size: int = 256,
) -> Influence:
    """Predicts `d output / d theta (H + damping I)^-1 sum_forget grad loss / N`, mean over models.

    One inverse-Hessian product answers a request for all evaluation examples at once: the change
    of the parameters is pushed forward through the model, no gradient per example is taken.

    Args:
      task: its mean loss over `train` is what the models minimise.
      models: variables of independently trained models.
      train: `[N, ...]`.
      evaluation: `[n_eval, ...]` with targets.
      output: what is predicted.
      method, damping, num_steps, scale, batch_size: of the inverse, see
        `curvature.inverse_hessian_vector_product`. At a point that is no minimum the Hessian has
        negative eigenvalues; `damping` must outweigh them. 'ekfac' takes the factored Fisher matrix
        in its place (`curvature.ekfac`), which has none.
      rng: for 'ekfac'.

    Returns:
      The attributor. A prediction costs, per model, `num_steps` passes over the training data and
      one over the evaluation data; building it costs nothing. With 'ekfac' building it costs three
      passes per model and a prediction one over the training and one over the evaluation data.

    Raises:
      ValueError: for an unknown method or a value out of range.
    """
    checks.one_of(method=(method, METHODS))
    checks.at_least(1, num_steps=num_steps, batch_size=batch_size)
    if not models:
        raise ValueError("models must be at least one, got none")
    if method == "ekfac" and rng is None:
        raise ValueError("rng must be given for method='ekfac', got None")
    size = data_lib.num_examples(train)

    def invert(variables, factors, train, vector):
        if method == "ekfac":
            return curvature.ekfac_solve(factors, vector, damping=damping)
        return curvature.inverse_hessian_vector_product(
            task,
            variables,
            train,
            vector,
            method=method,
            damping=damping,
            num_steps=num_steps,
            scale=scale,
            batch_size=batch_size,
        )

    def change_of_one(variables, factors, train, evaluation, removed):
        params = variables["params"]
        total = jnp.maximum(removed.sum(), 1e-12)
        gone = {**train, "weight": removed}
        gradient = curvature.mean_gradient(task, variables, gone, batch_size=batch_size)
        step = invert(variables, factors, train, jax.tree.map(lambda g: g * total / size, gradient))

        def pushed(batch):
            outputs = lambda p: output(task, {**variables, "params": p}, batch)
            return jax.jvp(outputs, (params,), (step,))[1]

        return training.map_batches(pushed, evaluation, batch_size)

    def change(models, factors, train, evaluation, removed):
        one = lambda pair: change_of_one(*pair, train, evaluation, removed)
        return jax.lax.map(one, (models, factors)).mean(0)

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    # An inverse cannot be iterated towards in half precision.
    stacked = {**stacked, "params": trees.widened(stacked["params"])}
    factors = ()
    if method == "ekfac":
        factor = lambda v: curvature.ekfac(task, v, train, rng, batch_size=batch_size)
        factors = jax.jit(partial(jax.lax.map, factor))(stacked)
    arguments = (stacked, factors, dict(train), dict(evaluation))
    return Influence(jax.tree_util.Partial(change, *arguments), jnp.zeros(size))
