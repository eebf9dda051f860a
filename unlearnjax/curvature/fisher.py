"""Diagonal of the Fisher information, accumulated over a data set.

Exact per example: invariant to batch size, order, padding and number of devices. The importances of
Foster et al., "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
AAAI 2024 (arXiv 2308.07707) are this with labels from the data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from unlearnjax import checks, parallel, tasks
from unlearnjax import data as data_lib
from unlearnjax.curvature.layers import summed_squares
from unlearnjax.curvature.per_example import gradient, per_example_gradients, weighted_squares
from unlearnjax.types import Array, Batch, Data, PyTree, Task, Variables

METHODS = ("layers", "vmap")
LABELS = ("data", "model")


def fisher_diagonal(
    task: Task,
    variables: Variables,
    data: Data,
    *,
    labels: str = "data",
    rng: Array | None = None,
    method: str = "layers",
    batch_size: int = 128,
    max_bytes: int = 2**28,
) -> PyTree:
    """`mean_n (d log p(y_n | x_n) / d theta_i)^2` over `data`, for every parameter.

    The model is in evaluation mode: no dropout, statistics frozen. `weight` in `data`, if there,
    weighs the examples.

    Args:
      task: its loss is taken as the negative log-likelihood of one example.
      variables: the model's.
      data: `[N, ...]` arrays.
      labels: 'data' takes the targets as given (the empirical Fisher); 'model' draws them from the
        model's own predictions (the Fisher itself, by one sample per example).
      rng: key for labels='model'; the draw of an example depends on its `index` alone.
      method: 'layers' (fast, see `curvature.layers`) or 'vmap' (the definition).
      batch_size: examples per pass; the result does not depend on it.
      max_bytes: bound on the per-example gradients that 'layers' holds at once; 'vmap' holds
        `batch_size` times the parameters.

    Returns:
      A tree like `variables['params']`, float32. Cost: one forward and backward pass over the data
      and, by layer rules, the per-example products of shared layers.

    Raises:
      ValueError: for an unknown `labels` or `method`, or `labels='model'` without `rng`.

    Examples:
      >>> from unlearnjax import curvature, models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> inputs = jax.random.normal(jax.random.key(1), (10, 4))
      >>> data = {"inputs": inputs, "targets": jnp.arange(10) % 3}
      >>> variables = task.init(jax.random.key(0), data)
      >>> fisher = curvature.fisher_diagonal(task, variables, data, batch_size=10)
      >>> again = curvature.fisher_diagonal(task, variables, data, batch_size=3)
      >>> all(jnp.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (fisher, again))))
      True
    """
    checks.one_of(labels=(labels, LABELS), method=(method, METHODS))
    if labels == "model" and rng is None:
        raise ValueError("rng must be given for labels='model', got None")

    def batch_sum(batch):
        if labels == "model":
            batch = {**batch, "targets": sample_targets(rng, task, variables, batch)}
        if method == "layers":
            return summed_squares(task, variables, batch, max_bytes)
        weight = batch["weight"]
        gradients = per_example_gradients(task, variables, batch)
        return jax.tree.map(lambda g: weighted_squares(g, weight), gradients)

    return mean_over_batches(batch_sum, variables["params"], data, batch_size)


def batch_gradient_squared(
    task: Task, variables: Variables, data: Data, *, batch_size: int
) -> PyTree:
    """Square of the batch-mean gradient, averaged over batches in the order of `data`.

    This is what the published SSD code computes in the place of the Fisher diagonal. It depends on
    the batch size (roughly as its inverse), so hyper-parameters found with it hold for that batch
    size only; use it to compare with published values, and `fisher_diagonal` otherwise.

    Args:
      task, variables, data: as in `fisher_diagonal`.
      batch_size: part of the definition here.
    """
    data_lib.validate_batch_size(batch_size, data_lib.num_examples(data))
    task = tasks.expected(task)

    def batch_square(batch):
        def mean_loss(params):
            outputs, _ = task.apply({**variables, "params": params}, batch, None, False)
            return jnp.average(task.loss(outputs, batch), weights=batch["weight"])

        grads = gradient(mean_loss)(variables["params"])
        return jax.tree.map(lambda g: g.astype(jnp.float32) ** 2, grads)

    total, _ = _sum_over_batches(batch_square, variables["params"], data, batch_size)
    num_batches = data_lib.steps_per_epoch(data_lib.num_examples(data), batch_size)
    return jax.tree.map(lambda t: t / num_batches, total)


def output_sensitivity(
    task: Task, variables: Variables, data: Data, *, batch_size: int = 16
) -> PyTree:
    """`mean_n |d ||f(x_n)||^2 / d theta_i|` over `data`, f the logits: importance without labels.

    Foster et al., "Loss-Free Machine Unlearning", 2024 (arXiv 2402.19308), per example; of a
    language model the mean over the answer's tokens. Memory: `batch_size` times the parameters.

    Args:
      task, variables, data: as in `fisher_diagonal`; targets are not read.
      batch_size: examples per pass; the result does not depend on it.
    """

    task = tasks.expected(task)

    def squared_norm(params, example):
        batch = jax.tree.map(lambda x: x[None], example)
        outputs, _ = task.apply({**variables, "params": params}, batch, None, False)
        squares = tasks.logits(outputs) ** 2
        # What a language model says of a prompt, or of padding, is no output.
        return jnp.sum(tasks.over_answer(squares.sum(-1), batch) if "answer" in batch else squares)

    def batch_sum(batch):
        grads = jax.vmap(gradient(squared_norm), (None, 0))(variables["params"], dict(batch))
        return jax.tree.map(
            lambda g: jnp.einsum("n...,n->...", jnp.abs(g.astype(jnp.float32)), batch["weight"]),
            grads,
        )

    return mean_over_batches(batch_sum, variables["params"], data, batch_size)


def sample_targets(rng: Array, task: Task, variables: Variables, batch: Batch) -> Array:
    """`[B]` class ids drawn from the model's predictions; example `index` picks its own key."""
    outputs, _ = tasks.expected(task, 1).apply(variables, batch, None, False)
    tasks.num_classes(outputs)
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(batch["index"])
    return jax.vmap(jax.random.categorical)(keys, outputs["logits"])


def mean_over_batches(
    fn: Callable[[Batch], PyTree], like: PyTree, data: Data, batch_size: int
) -> PyTree:
    """`_sum_over_batches` by the sum of weights."""
    total, weight = _sum_over_batches(fn, like, data, batch_size)
    return jax.tree.map(lambda t: t / weight, total)


def _sum_over_batches(
    fn: Callable[[Batch], PyTree], like: PyTree, data: Data, batch_size: int
) -> tuple[PyTree, Array]:
    """Sum of `fn(batch)` over fixed-size batches of `data`, in float32 leaves shaped as those of
    `like`, and the sum of weights.
    """
    n = data_lib.num_examples(data)
    rows = data_lib.pad_indices(jnp.arange(n), min(batch_size, n))

    def add(carry, row):
        total, weight = carry
        batch = parallel.constrain(data_lib.take(data, row))
        total = jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, fn(batch))
        return (total, weight + batch["weight"].sum()), None

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), like)
    return jax.lax.scan(add, (zeros, jnp.zeros(())), rows)[0]
