"""What iterative unlearners minimise: per-example terms on the forget set and on the retain set.

A term is a pure function `(task, outputs, batch, teachers) -> [B]` of the student's outputs and the
outputs of frozen models on the same batch. `combine` adds terms up into the loss that `descend`
minimises.
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from unlearnjax import checks, tasks
from unlearnjax.types import Array, Batch, Outputs, PyTree, Task, Variables

Term = Callable[[Task, Outputs, Batch, Mapping[str, Outputs]], Array]
# (parameters, parameters of the original model) -> scalar
Penalty = Callable[[PyTree, PyTree], Array]
# (task, variables, batch, key of the step) -> batch
Prepare = Callable[[Task, Variables, Batch, Array], Batch]
# (task, frozen models by name) -> training.step.LossFn; the batch has 'forget' [B], 1 or 0
Objective = Callable[[Task, Mapping[str, Variables]], Callable]

WEIGHTINGS = ("part", "example")


def combine(
    *,
    forget: Sequence[tuple[float, Term]] = (),
    retain: Sequence[tuple[float, Term]] = (),
    penalty: Penalty | None = None,
    train: bool = False,
    weighting: str = "part",
    prepare: Prepare | None = None,
) -> Objective:
    """Sum over terms of `coefficient * mean of the term`, each over its part of the batch.

    Args:
      forget, retain: (coefficient, term) pairs.
      penalty: added once per step.
      train: whether the student runs in training mode, with dropout and updates of running
        statistics. Teachers always run in evaluation mode.
      weighting: what a mean is taken over. 'part': each part by itself, so that coefficients do
        not depend on how many examples of which part a batch happens to hold; in a shuffled union
        a forgotten example then weighs `n_retain / n_forget` times as much as a retained one.
        'example': the whole step, so that every example weighs alike. Where a step holds one part
        only both are the same; a part that a batch lacks contributes nothing.
      prepare: what changes the batch before the step, such as targets drawn anew; no gradient goes
        through it.

    Returns:
      An objective for `descend`.

    Raises:
      ValueError: for an unknown `weighting`.
    """
    checks.one_of(weighting=(weighting, WEIGHTINGS))

    def objective(task: Task, teachers: Mapping[str, Variables]):
        def loss_fn(variables, batch, rng):
            batch = tasks.drawn(task, batch, train)
            if prepare is not None:
                rng, prepare_rng = jax.random.split(rng)
                batch = jax.lax.stop_gradient(prepare(task, variables, batch, prepare_rng))
            outputs, updated = task.apply(variables, batch, rng if train else None, train)
            seen = {
                name: teacher_outputs(task, name, frozen, batch)
                for name, frozen in teachers.items()
            }
            losses = jnp.zeros(batch["weight"].shape)
            for terms, member in ((forget, batch["forget"]), (retain, 1 - batch["forget"])):
                if terms:
                    values = sum(c * term(task, outputs, batch, seen) for c, term in terms)
                    scale = _share(batch, member) if weighting == "part" else 1.0
                    losses += jnp.where(member > 0, values, 0.0) * scale
            if penalty is not None:
                losses += penalty(variables["params"], teachers["original"]["params"])
            return losses, ({"objective": losses}, updated)

        return loss_fn

    return objective


def teacher_outputs(task: Task, name: str, frozen: Variables, batch: Batch) -> Outputs:
    """A teacher's outputs on a batch: those cached in it as `NAME.OUTPUT`, or computed now."""
    cached = {
        key.removeprefix(f"{name}."): value
        for key, value in batch.items()
        if key.startswith(f"{name}.")
    }
    outputs = cached or task.apply(frozen, batch, None, False)[0]
    return jax.lax.stop_gradient(outputs)


def task_loss(task: Task, outputs: Outputs, batch: Batch, teachers) -> Array:
    """The task's own loss: cross-entropy for classification."""
    del teachers
    return task.loss(outputs, batch)


def bounded_loss(max_loss: float | None = None) -> Term:
    """`min(loss, max_loss)`: with a negative coefficient, ascent that stops at the bound.

    Args:
      max_loss: nats, > 0; `None` is the loss of a uniform guess, the log of the number of classes.
    """
    if max_loss is not None:
        checks.positive(max_loss=max_loss)

    def term(task, outputs, batch, teachers):
        del teachers
        bound = jnp.log(tasks.num_classes(outputs)) if max_loss is None else max_loss
        return jnp.minimum(task.loss(outputs, batch), bound)

    return term


def uniform_target(task: Task, outputs: Outputs, batch: Batch, teachers) -> Array:
    """Cross-entropy to the uniform distribution, less its minimum: KL(uniform || student)."""
    del task, batch, teachers
    log_probs = jax.nn.log_softmax(outputs["logits"])
    return -log_probs.mean(-1) - jnp.log(tasks.num_classes(outputs))


def divergence(teacher: str = "original", temperature: float = 1.0) -> Term:
    """How far the student's predictions are from a teacher's, as the task compares them.

    `T^2 KL(teacher || student)` of softened predictions for classification, see `Task.divergence`.
    """
    checks.positive(temperature=temperature)

    def term(task, outputs, batch, teachers):
        if task.divergence is None:
            raise ValueError("this term compares predictions: the task must have a divergence")
        return task.divergence(outputs, teachers[teacher], batch, temperature)

    return term


def feature_distance(teacher: str = "original") -> Term:
    """Squared Euclidean distance of the penultimate features to a teacher's."""

    def term(task, outputs, batch, teachers):
        del task, batch
        return jnp.sum((outputs["features"] - teachers[teacher]["features"]) ** 2, axis=-1)

    return term


def output_distance(teacher: str = "original") -> Term:
    """Half the squared Euclidean distance of the logits to a teacher's."""

    def term(task, outputs, batch, teachers):
        del task, batch
        return jnp.sum((outputs["logits"] - teachers[teacher]["logits"]) ** 2, axis=-1) / 2

    return term


def l1(coefficient: float) -> Penalty:
    """`coefficient * sum |theta|`."""
    return lambda params, original: coefficient * optax.tree.norm(params, ord=1)


def l2(coefficient: float) -> Penalty:
    """`coefficient * sum theta^2`."""
    return lambda params, original: coefficient * optax.tree.norm(params, squared=True)


def l2_to_original(coefficient: float) -> Penalty:
    """`coefficient * sum (theta - theta_original)^2`."""

    def penalty(params, original):
        return coefficient * optax.tree.norm(optax.tree.sub(params, original), squared=True)

    return penalty


def random_targets(rng: Array, targets: Array, num_classes: int) -> Array:
    """`[N]` labels, each uniform among the classes other than the example's own."""
    shift = jax.random.randint(rng, targets.shape, 1, num_classes)
    return (targets + shift) % num_classes


def second_best_targets(logits: Array, targets: Array) -> Array:
    """`[N]`: for each example the likeliest class other than its own."""
    is_target = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
    return jnp.argmax(jnp.where(is_target, -jnp.inf, logits), axis=-1).astype(targets.dtype)


def _share(batch: Batch, member: Array) -> Array:
    """What turns the step's mean over the whole batch into the mean over a part of it."""
    weight = batch["weight"]
    return weight.sum() / jnp.maximum((weight * member).sum(), 1e-12)
