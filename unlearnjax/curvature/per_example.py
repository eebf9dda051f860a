"""Per-example gradients by the generic definition, `vmap(grad)`."""

from collections.abc import Callable

import jax

from unlearnjax.types import Array, Batch, PyTree, Task, Variables


def example_loss(task: Task, variables: Variables) -> Callable[[PyTree, Batch], Array]:
    """`(params, example) -> loss` of one example without batch axis, in evaluation mode."""

    def loss(params, example):
        batch = jax.tree.map(lambda x: x[None], example)
        outputs, _ = task.apply({**variables, "params": params}, batch, None, False)
        return task.loss(outputs, batch)[0]

    return loss


def per_example_gradients(task: Task, variables: Variables, batch: Batch) -> PyTree:
    """Gradient of each example's loss by the parameters: leaves `[B, *param.shape]`.

    Evaluation mode; weights are not applied. Memory: B times the parameters.

    Examples:
      >>> from unlearnjax import curvature, models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=())))
      >>> batch = {"inputs": jnp.ones((5, 4)), "targets": jnp.zeros(5, jnp.int32)}
      >>> variables = task.init(jax.random.key(0), batch)
      >>> gradients = curvature.per_example_gradients(task, variables, batch)
      >>> gradients["Dense_0"]["kernel"].shape
      (5, 4, 3)
    """
    return jax.vmap(jax.grad(example_loss(task, variables)), (None, 0))(variables["params"], batch)
