"""Per-example outputs of a model over a whole data set."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax import data as data_lib
from unlearnjax import parallel, tasks
from unlearnjax.types import Array, Batch, Data, PyTree, Task, Variables


def map_batches(fn: Callable[[Batch], PyTree], data: Data, batch_size: int) -> PyTree:
    """`fn` over fixed-size batches of `data`; its per-example results are joined to `[N, ...]`.

    One compiled loop; the padding of the last batch is cut off again.
    """
    n = data_lib.num_examples(data)
    rows = data_lib.pad_indices(jnp.arange(n), min(batch_size, n))
    results = jax.lax.map(lambda r: fn(parallel.constrain(data_lib.take(data, r))), rows)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], results)


def outputs(
    task: Task, variables: Variables, data: Data, *, batch_size: int = 256
) -> dict[str, Array]:
    """The task's outputs on every example, `[N, ...]` each, in evaluation mode; one pass.

    Of a task that draws, see `tasks.expected`.
    """
    task = tasks.expected(task)
    return map_batches(lambda b: task.apply(variables, b, None, False)[0], data, batch_size)


def output_shapes(task: Task, variables: Variables, data: Data) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of the outputs on one example, e.g. 'logits' `[1, C]`; computes nothing."""
    batch = example(task, data)
    return jax.eval_shape(lambda v: task.apply(v, batch, None, False)[0], variables)


def example(task: Task, data: Data) -> Batch:
    """The first example as a batch of one, as the task draws it: for shapes, and to initialise."""
    return tasks.drawn(task, data_lib.take(data, jnp.zeros(1, jnp.int32)))


def evaluate(
    task: Task, variables: Variables, data: Data, *, batch_size: int = 256
) -> dict[str, Array]:
    """Loss and metrics of every example, in evaluation mode (no dropout, statistics frozen).

    Of a task that draws, the means over its draws, see `tasks.expected`.

    Args:
      task: what is evaluated.
      variables: the model's.
      data: `[N, ...]` arrays.
      batch_size: examples per step of the loop; results do not depend on it.

    Returns:
      `{'loss': [N], 'accuracy': [N], ...}`. Cost: one forward pass over the data.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> data = {"inputs": jnp.ones((7, 4)), "targets": jnp.zeros(7, jnp.int32)}
      >>> per_example = evaluate(task, task.init(jax.random.key(0), data), data, batch_size=4)
      >>> per_example["loss"].shape, sorted(per_example)
      ((7,), ['accuracy', 'confidence', 'entropy', 'loss', 'margin'])
    """

    task = tasks.expected(task)

    def per_batch(batch):
        outputs, _ = task.apply(variables, batch, None, False)
        return {"loss": task.loss(outputs, batch), **task.metrics(outputs, batch)}

    return map_batches(per_batch, data, batch_size)
