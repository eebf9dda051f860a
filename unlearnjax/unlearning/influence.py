"""Influence unlearning: one step of second order."""

import jax

from unlearnjax import checks, curvature, trees
from unlearnjax import data as data_lib
from unlearnjax.types import Request, Unlearner
from unlearnjax.unlearning.descend import init_nothing


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

    `theta + alpha (H_retain + damping I)^-1 |forget| / |all| (g_forget - g_retain)`, with g the
    gradients of the mean losses: training weighs every example by 1 / |all|, training without the
    forget set the retain set by 1 / |retain|, and this is the step to first order in that change.
    Where the original is a minimum of the mean loss on all data the retain gradient cancels all but
    `sum_forget grad loss / |retain|`, one Newton step on the retain loss; where it is not, the step
    leaves out the training that has not happened. Without weight decay the Hessian of an
    over-trained network is nearly singular; `damping` decides the result.

    The published unlearning code is `method='woodfisher'`, `num_steps=1000`, with alpha searched in
    1 to 20; it takes the gradients in the order of the retain set, here they are drawn. The default
    inverts the Hessian itself, as the theory has it.

    Args:
      alpha: strength; 1 is the theory's.
      method, damping, num_steps, scale, batch_size: of the inverse, see
        `curvature.inverse_hessian_vector_product`.

    Returns:
      An unlearner that needs forget and retain data and labels. Cost: a pass over both and those of
      the inverse over the retain set.

    Raises:
      ValueError: for a value out of range.

    References:
      Koh and Liang, "Understanding Black-box Predictions via Influence Functions", ICML 2017; Izzo
      et al., "Approximate Data Deletion from Machine Learning Models", AISTATS 2021; code: Jia et
      al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023.
    """
    checks.at_least(0, alpha=alpha)
    checks.one_of(method=(method, curvature.INVERSE_METHODS))

    def update(rng, task, variables, memory, request: Request):
        parts = request.forget, request.retain
        sizes = [data_lib.weights(part).sum() for part in parts]
        at = {**variables, "params": trees.widened(variables["params"])}  # inverses sum in it
        forget, retain = (
            curvature.mean_gradient(task, at, part, batch_size=batch_size) for part in parts
        )
        share = sizes[0] / sum(sizes)
        step = curvature.inverse_hessian_vector_product(
            task,
            at,
            request.retain,
            jax.tree.map(lambda f, r: share * (f - r), forget, retain),
            method=method,
            damping=damping,
            num_steps=num_steps,
            scale=scale,
            rng=rng,
            batch_size=batch_size,
        )
        params = jax.tree.map(
            lambda p, s: (p + alpha * s).astype(p.dtype), variables["params"], step
        )
        return {**variables, "params": params}, memory

    return Unlearner(init_nothing, update, frozenset({"forget", "retain", "inputs", "labels"}))
