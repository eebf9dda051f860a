"""How much of the Fisher trace each example holds: whether a few decide about a set."""

import jax
import jax.numpy as jnp

from unlearnjax import training
from unlearnjax.curvature.per_example import per_example_gradients
from unlearnjax.types import Array, Data, Task, Variables


def squared_gradient_norms(
    task: Task, variables: Variables, data: Data, *, batch_size: int = 32
) -> Array:
    """`|d loss_n / d theta|^2` of every example, `[N]` float32; `weight` in `data` is not applied.

    Evaluation mode. Cost: one forward and backward pass; memory: `batch_size` times the parameters.

    Args:
      task, variables, data: as in `fisher_diagonal`.
      batch_size: examples per pass; the result does not depend on it.
    """

    def norms(batch):
        squares = jax.tree.map(
            lambda g: jnp.sum(g.astype(jnp.float32) ** 2, axis=range(1, g.ndim)),
            per_example_gradients(task, variables, batch),
        )
        return sum(jax.tree.leaves(squares))

    return training.map_batches(norms, data, batch_size)


def fisher_trace_shares(
    task: Task, variables: Variables, data: Data, *, batch_size: int = 32
) -> Array:
    """`[N]`: the part of the trace of `fisher_diagonal` that is each example's; they add up to 1.

    All are 0 where no example has a gradient. `weight` in `data` weighs the examples.

    Args and cost: see `squared_gradient_norms`.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=())))
      >>> data = {"inputs": jnp.array([[3.0], [1.0]]), "targets": jnp.zeros(2, jnp.int32)}
      >>> variables = {"params": {"Dense_0": {"kernel": jnp.zeros((1, 3)), "bias": jnp.zeros(3)}}}
      >>> shares = fisher_trace_shares(task, variables, data)  # as 1 + 3^2 to 1 + 1^2
      >>> [f"{share:.3f}" for share in shares]
      ['0.833', '0.167']
    """
    terms = squared_gradient_norms(task, variables, data, batch_size=batch_size)
    terms = terms * data.get("weight", 1.0)
    total = terms.sum()
    return terms / jnp.where(total > 0, total, 1.0)
