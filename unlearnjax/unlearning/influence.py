"""One-shot updates from second-order information: influence functions and Fisher forgetting."""

import jax
import jax.numpy as jnp

from unlearnjax import checks, curvature
from unlearnjax import data as data_lib
from unlearnjax.types import Request, Unlearner
from unlearnjax.unlearning.descend import init_nothing
from unlearnjax.unlearning.finetune import last_layers


def influence(
    *,
    alpha: float = 1.0,
    method: str = "cg",
    damping: float = 0.01,
    num_steps: int = 50,
    scale: float = 10.0,
    batch_size: int = 256,
) -> Unlearner:
    """Influence unlearning: the first-order effect of leaving the forget set out of training.

    `theta + alpha / |retain| (H_retain + damping I)^-1 sum_forget grad loss`: one Newton step on
    the retain loss, where the original is a minimum of the loss on all data. Without weight decay
    the Hessian of an over-trained network is nearly singular; `damping` decides the result.

    Args:
      alpha: strength; 1 is the theory's.
      method, damping, num_steps, scale, batch_size: of the inverse, see
        `curvature.inverse_hessian_vector_product`.

    Returns:
      An unlearner that needs forget and retain data and labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017; Izzo
      et al., "Approximate Data Deletion from Machine Learning Models", AISTATS 2021.
    """
    checks.at_least(0, alpha=alpha)
    checks.one_of(method=(method, curvature.INVERSE_METHODS))

    def update(rng, task, variables, memory, request: Request):
        share = data_lib.num_examples(request.forget) / data_lib.num_examples(request.retain)
        gradient = curvature.mean_gradient(task, variables, request.forget, batch_size=batch_size)
        step = curvature.inverse_hessian_vector_product(
            task,
            variables,
            request.retain,
            jax.tree.map(lambda g: share * g, gradient),
            method=method,
            damping=damping,
            num_steps=num_steps,
            scale=scale,
            rng=rng,
            batch_size=batch_size,
        )
        params = jax.tree.map(lambda p, s: p + alpha * s, variables["params"], step)
        return {**variables, "params": params}, memory

    return Unlearner(init_nothing, update, frozenset({"forget", "retain", "labels"}))


def fisher_forgetting(
    *, alpha: float = 1e-7, max_std: float = 1e-3, max_std_last: float = 1e-2, batch_size: int = 128
) -> Unlearner:
    """Fisher forgetting: noise where the retain set does not mind it.

    `theta_i + eps_i min(sqrt(alpha / F_i), max_std)` with eps standard normal and F the Fisher
    diagonal of the retain set.

    Args:
      alpha: noise level, > 0; published searches span 1e-9 to 1e-6.
      max_std, max_std_last: bound on the noise, of the last layer's parameters separately.
      batch_size: examples per pass; the result does not depend on it.

    Returns:
      An unlearner that needs retain data and labels. Cost: one pass over the retain set.

    Raises:
      ValueError: for a value out of range.

    References:
      Golatkar et al., "Eternal Sunshine of the Spotless Net", CVPR 2020, section 4.
    """
    checks.positive(alpha=alpha, max_std=max_std, max_std_last=max_std_last)

    def update(rng, task, variables, memory, request: Request):
        fisher = curvature.fisher_diagonal(task, variables, request.retain, batch_size=batch_size)
        last = last_layers(task, variables, request.retain, 1)
        leaves, treedef = jax.tree.flatten(variables["params"])
        keys = treedef.unflatten(jax.random.split(rng, len(leaves)))

        def noisy(theta, f, is_last, key):
            bound = jnp.where(is_last > 0, max_std_last, max_std)
            std = jnp.minimum(jnp.sqrt(alpha / jnp.maximum(f, 1e-30)), bound)
            return theta + (std * jax.random.normal(key, theta.shape)).astype(theta.dtype)

        params = jax.tree.map(noisy, variables["params"], fisher, last, keys)
        return {**variables, "params": params}, memory

    return Unlearner(init_nothing, update, frozenset({"retain", "labels"}))
