"""The lower level: what unlearning minimises, for a selection that need not be 0 or 1."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from unlearnjax import checks, tasks
from unlearnjax.types import Array, Batch, Task, Variables
from unlearnjax.unlearning import objectives

# (task, outputs, batch, teachers) -> [B], see `objectives.Term`
Terms = Sequence[tuple[float, objectives.Term]]


class Lower(NamedTuple):
    """`sum_i (1 - w_i) retain_i + w_i forget_i`, per example, plus a penalty.

    Attributes:
      retain, forget: (coefficient, term) pairs, see `objectives.combine`.
      penalty: of the parameters and those of the original.
      labels: whether any term reads `targets`.
      teacher: whether any term compares with the original model.
      relabels: whether any term reads the wrong labels `relabelled`, so that there must be classes.
    """

    retain: Terms
    forget: Terms = ()
    penalty: objectives.Penalty | None = None
    labels: bool = True
    teacher: bool = False
    relabels: bool = False

    def losses(
        self, task: Task, variables: Variables, original: Variables, batch: Batch, selected: Array
    ) -> Array:
        """`[B]` for selection weights `[B]` of the batch, without the penalty."""
        batch = tasks.drawn(task, batch)
        outputs, _ = task.apply(variables, batch, None, False)
        teachers = {}
        if self.teacher:
            teachers = {"original": objectives.teacher_outputs(task, "original", original, batch)}
        kept, gone = (
            sum((c * term(task, outputs, batch, teachers) for c, term in terms), jnp.zeros(()))
            for terms in (self.retain, self.forget)
        )
        return (1 - selected) * kept + selected * gone


def finetune() -> Lower:
    """Descent on what is not selected."""
    return Lower(retain=[(1.0, objectives.task_loss)])


def gradient_ascent_plus(beta: float = 0.9, max_loss: float | None = None) -> Lower:
    """Descent on what is not selected, ascent on what is, up to `objectives.bounded_loss`."""
    checks.share(beta=beta)
    bounded = objectives.bounded_loss(max_loss)
    return Lower(retain=[(beta, objectives.task_loss)], forget=[(beta - 1, bounded)])


def gradient_ascent(max_loss: float | None = None) -> Lower:
    """Ascent on what is selected."""
    return Lower(retain=[], forget=[(-1.0, objectives.bounded_loss(max_loss))])


def random_label(forget_weight: float = 1.0) -> Lower:
    """Descent on both, with wrong labels for what is selected: the batch's `relabelled`."""
    checks.positive(forget_weight=forget_weight)
    return Lower(
        retain=[(1.0, objectives.task_loss)], forget=[(forget_weight, _relabelled)], relabels=True
    )


def l1_sparse(gamma: float = 1e-4) -> Lower:
    """Descent on what is not selected, with an L1 penalty on the parameters."""
    checks.at_least(0, gamma=gamma)
    return Lower(retain=[(1.0, objectives.task_loss)], penalty=objectives.l1(gamma))


def scrub(alpha: float = 0.001, gamma: float = 0.99) -> Lower:
    """Near the original on what is not selected, far from it on what is; see `unlearning.scrub`."""
    checks.at_least(0, alpha=alpha, gamma=gamma)
    divergence = objectives.divergence()
    return Lower(
        retain=[(alpha, divergence), (gamma, objectives.task_loss)],
        forget=[(-1.0, divergence)],
        teacher=True,
    )


# By the names of the unlearners that they stand for.
BY_NAME: dict[str, Callable[..., Lower]] = {
    "finetune": finetune,
    "gradient_ascent": gradient_ascent,
    "gradient_ascent_plus": gradient_ascent_plus,
    "random_label": random_label,
    "l1_sparse": l1_sparse,
    "scrub": scrub,
}


def _relabelled(task: Task, outputs, batch: Batch, teachers) -> Array:
    del teachers
    return task.loss(outputs, {**batch, "targets": batch["relabelled"]})
