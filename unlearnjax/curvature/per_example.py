"""Per-example gradients by the generic definition, `vmap(grad)`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import tasks
from unlearnjax.types import Array, Batch, PyTree, Task, Variables


def example_loss(task: Task, variables: Variables) -> Callable[[PyTree, Batch], Array]:
    """`(params, example) -> loss` of one example without batch axis, in evaluation mode."""
    task = tasks.expected(task)

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
    return jax.vmap(gradient(example_loss(task, variables)), (None, 0))(variables["params"], batch)


def gradient(fn: Callable[..., Array]) -> Callable[..., PyTree]:
    """`jax.grad(fn)`, with zeros for parameters of integers, which have no derivative."""

    def of(params, *args):
        gradients = jax.grad(fn, allow_int=True)(params, *args)
        return jax.tree.map(
            lambda p, g: g if is_float(p) else jnp.zeros(p.shape, jnp.float32), params, gradients
        )

    return of


def tangent(params: PyTree, vector: PyTree) -> PyTree:
    """`vector` in the types that jax wants of tangents of `params`; integers have none."""

    def of(p, v):
        return v.astype(p.dtype) if is_float(p) else np.zeros(p.shape, jax.dtypes.float0)

    return jax.tree.map(of, params, vector)


def weighted_squares(gradients: Array, weight: Array) -> Array:
    """`sum_n weight_n gradients_n^2`, in float32."""
    return jnp.einsum("n...,n->...", gradients.astype(jnp.float32) ** 2, weight)


def is_float(leaf: Array) -> bool:
    """Whether a parameter can be differentiated by."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
