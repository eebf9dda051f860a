"""The training step: one batch, one optimizer update, pure."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unlearnjax import parallel, tasks, trees
from unlearnjax.types import Array, Batch, PyTree, Task, Variables

# (variables, batch, rng) -> (per-example loss [B], (per-example metrics, updated variables))
LossFn = Callable[[Variables, Batch, Array], tuple[Array, tuple[dict[str, Array], Variables]]]


# Sets the keys of draws apart from those of dropout.
_DRAWS = 0x5EED


class TrainState(NamedTuple):
    """All that training carries from step to step.

    Attributes:
      step: scalar int32, batches seen; epochs and keys follow from it, so resuming needs no more.
      variables: the model's.
      opt_state: the optimizer's.
    """

    step: Array
    variables: Variables
    opt_state: PyTree


Step = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def init_state(variables: Variables, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), variables, tx.init(variables["params"]))


def supervised(task: Task, train: bool = True) -> LossFn:
    """The task's own loss as a `LossFn`.

    `train=False` freezes dropout and batch statistics and augments nothing.
    """

    def loss_fn(variables, batch, rng):
        batch = tasks.drawn(task, batch, train)
        outputs, updated = task.apply(variables, batch, rng if train else None, train)
        losses = task.loss(outputs, batch)
        return losses, ({"loss": losses, **task.metrics(outputs, batch)}, updated)

    return loss_fn


def make_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    axis_name: str | None = None,
    against: LossFn | None = None,
) -> Step:
    """`(state, batch, rng) -> (state, metrics)`: one update on the weighted mean loss of a batch.

    Args:
      loss_fn: per-example loss, see `supervised`.
      tx: optimizer over `variables['params']`.
      axis_name: the mapped axis if called inside your own `pmap`/`shard_map`: gradients, metrics
        and running statistics are then averaged over the global batch.
      against: a second loss, which is not minimised: `tx` is handed the gradient of its mean as the
        extra argument `against`, as `unlearning.transforms.project_conflict` reads it. Costs a
        second forward and backward pass.

    Returns:
      The step. It gives `loss_fn` the keys of the batch's draws, see `tasks.drawn`. Its metrics are
      sums over the batch, each weighted, with 'weight' the sum of weights: sums over an epoch are
      then exact whatever the padding.

    Examples:
      >>> from unlearnjax import models, tasks, training
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3, hidden=(8,))))
      >>> batch = {"inputs": jnp.ones((6, 4)), "targets": jnp.arange(6) % 3, "weight": jnp.ones(6)}
      >>> tx = optax.adam(1e-3)
      >>> step = jax.jit(training.make_step(training.supervised(task), tx))
      >>> state = training.init_state(task.init(jax.random.key(0), batch), tx)
      >>> state, metrics = step(state, batch, jax.random.key(1))
      >>> int(state.step), float(metrics["weight"])
      (1, 6.0)
    """

    update = optax.with_extra_args_support(tx).update

    def total(tree):
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def shared(tree):
        return tree if axis_name is None else parallel.average(tree, axis_name)

    def step(state: TrainState, batch: Batch, rng: Array):
        batch = tasks.keyed(batch, jax.random.fold_in(jax.random.fold_in(rng, _DRAWS), state.step))
        weight = batch["weight"]
        variables = state.variables
        if axis_name is not None:
            variables = parallel.per_device(variables, axis_name)
            rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))

        def gradient(loss_fn):
            def weighted_loss(params):
                losses, (metrics, updated) = loss_fn({**variables, "params": params}, batch, rng)
                return jnp.sum(losses * weight), (metrics, updated)

            return jax.grad(weighted_loss, has_aux=True)(variables["params"])

        grads, (metrics, updated) = gradient(loss_fn)
        sums = {name: jnp.sum(value * weight) for name, value in metrics.items()}
        grads, sums = total((grads, {**sums, "weight": jnp.sum(weight)}))
        # A batch of padding alone must change nothing but the step count, hence no 0/0.
        count = jnp.maximum(sums["weight"], 1e-12)
        mean = lambda grads: jax.tree.map(lambda g: g / count.astype(g.dtype), grads)
        extra = {} if against is None else {"against": mean(total(gradient(against)[0]))}
        params, opt_state = state.variables["params"], state.opt_state
        updates, opt_state = update(mean(grads), opt_state, params, **extra)
        collections = {
            # What `apply` only carries is the same on every device and stays as it is.
            name: state.variables[name] if trees.same(value, variables.get(name)) else shared(value)
            for name, value in updated.items()
            if name != "params"
        }
        new_variables = {**collections, "params": optax.apply_updates(params, updates)}
        return TrainState(state.step + 1, new_variables, opt_state), sums

    return step
