"""Boundary unlearning: move the decision boundary over the forget set, by other labels or one more.

Chen et al., "Boundary Unlearning: Rapid Forgetting of Deep Networks via Shifting the Decision
Boundary", CVPR 2023 (arXiv 2303.11570).
"""

import jax
import jax.numpy as jnp

from unlearnjax import checks, tasks, training
from unlearnjax import data as data_lib
from unlearnjax.types import Request, Task, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.classification.relabel import relabelled
from unlearnjax.unlearning.descend import Transform, descend


def boundary_shrink(
    tx: Transform, *, radius: float = 0.1, num_epochs: int = 10, batch_size: int = 64
) -> Unlearner:
    """Boundary shrink: moves the forget set to the classes on the other side of its boundary.

    Each example is attacked by one signed gradient step against the original model, clipped to the
    range of the forget set's inputs; what that model predicts for the attacked example, its own
    class excluded, is its new label. The authors' code leaves an example that the attack does not
    carry across the boundary its own label, and so trains the model to remember it; their paper
    assigns the nearest incorrect one.

    In training mode, so that running statistics become those of the forget set.

    Args:
      tx: optax transformation; SGD 1e-5 with momentum 0.9 in the authors' code, for CIFAR-10.
      radius: of the attack, as a share of the range of the forget set's inputs, > 0; 0.1 of images
        in [0, 1] in the authors' code.
      num_epochs: passes over the forget set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs forget data and labels. Cost: the passes, and one forward and backward
      and one forward pass over the forget set.

    Raises:
      ValueError: for a value out of range, at the request for inputs that are not floating-point.
    """
    checks.positive(radius=radius)

    def relabel(rng, task, frozen, request):
        inputs = jnp.asarray(request.forget["inputs"])
        checks.floating(inputs=inputs)
        tasks.num_classes(training.output_shapes(task, frozen, request.forget))
        counts = (data_lib.weights(request.forget) > 0).reshape(-1, *[1] * (inputs.ndim - 1))
        low = inputs.min(where=counts, initial=jnp.inf)
        high = inputs.max(where=counts, initial=-jnp.inf)

        size = radius * (high - low)
        attack = training.pgd(
            task._replace(draw=None), radius=size, num_steps=1, step_size=size, bounds=(low, high)
        )

        def per_batch(batch):
            attacked = attack(rng, frozen, tasks.drawn(task, batch))
            outputs, _ = task.apply(frozen, attacked, None, False)
            return objectives.second_best_targets(outputs["logits"], batch["targets"])

        return training.map_batches(per_batch, request.forget, 256)

    objective = objectives.combine(forget=[(1.0, objectives.task_loss)], train=True)
    loop = descend(objective, tx, over="forget", num_epochs=num_epochs, batch_size=batch_size)
    return relabelled(loop, relabel)


def boundary_expand(tx: Transform, *, num_epochs: int = 10, batch_size: int = 64) -> Unlearner:
    """Boundary expand: trains the forget set into one class more, then drops that class.

    The extra logit is a linear function of the penultimate features, drawn as Glorot and Bengio do
    for the widened layer, without a bias at first. In training mode, so that running statistics
    become those of the forget set.

    Args:
      tx: optax transformation; SGD 1e-5 with momentum 0.9 in the authors' code, for CIFAR-10.
      num_epochs: passes over the forget set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs forget data only, no labels; the task's outputs must have 'features'.
    """
    objective = objectives.combine(forget=[(1.0, objectives.task_loss)], train=True)
    loop = descend(
        objective, tx, over="forget", num_epochs=num_epochs, batch_size=batch_size, labels=False
    )

    def update(rng, task, variables, memory, request: Request):
        init_rng, rng = jax.random.split(rng)
        outputs = training.output_shapes(task, variables, request.forget)
        num_classes, width = tasks.num_classes(outputs), tasks.features(outputs).shape[-1]
        std = (2 / (width + num_classes + 1)) ** 0.5
        extra = {"kernel": std * jax.random.normal(init_rng, (width, 1)), "bias": jnp.zeros(1)}
        wider = {**variables, "params": {"model": variables["params"], "extra": extra}}
        n = data_lib.num_examples(request.forget)
        targets = jnp.full(n, num_classes, jnp.int32)
        request = Request({**request.forget, "targets": targets})
        wider, memory = loop.update(rng, _with_extra_logit(task), wider, memory, request)
        return {**wider, "params": wider["params"]["model"]}, memory

    return loop._replace(update=update)


def _with_extra_logit(task: Task) -> Task:
    """The task with one logit more, for parameters `{'model': ..., 'extra': ...}`."""

    def apply(variables, batch, rng, train):
        params = variables["params"]
        outputs, updated = task.apply({**variables, "params": params["model"]}, batch, rng, train)
        extra = outputs["features"] @ params["extra"]["kernel"] + params["extra"]["bias"]
        logits = jnp.concatenate([outputs["logits"], extra], axis=-1)
        return {**outputs, "logits": logits}, {**updated, "params": params}

    return task._replace(apply=apply)
