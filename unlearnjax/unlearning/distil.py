"""Teachers: SCRUB (be unlike the original on the forget set), Bad Teacher (be like a novice)."""

import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax import data as data_lib
from unlearnjax.types import Array, Request, Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend
from unlearnjax.unlearning.teachers import incompetent_model, original_model


def scrub(
    tx: Transform,
    *,
    num_epochs: int = 5,
    max_epochs: int = 2,
    batch_size: int = 128,
    alpha: float = 0.001,
    gamma: float = 0.99,
    temperature: float = 4.0,
    rewind: bool = False,
) -> Unlearner:
    """SCRUB: away from the original's predictions on the forget set, near them on the retain set.

    Every epoch is a pass over the forget set that maximises KL(original || student) (in the first
    `max_epochs` epochs only), then one over the retain set that minimises
    `alpha KL(original || student) + gamma loss`. One optimizer and its state serve both. In
    training mode.

    Args:
      tx: optax transformation. The published runs use Adam with 5e-4, divided by 10 after epochs
        3, 5 and 9; an optax schedule over steps does that, the rate of ours is constant otherwise.
      num_epochs: min passes.
      max_epochs: how many of them a max pass precedes.
      batch_size: examples per step.
      alpha, gamma: coefficients on the retain set, >= 0.
      temperature: of the softened predictions, > 0.
      rewind: SCRUB+R, which returns the model of the epoch whose forget error is nearest to the
        error that the last epoch's model makes on validation examples of the forget set's classes:
        what is unseen must be as wrong as what is forgotten. Needs validation data; without
        examples of those classes in it nothing is rewound. Ours looks at the models after each
        epoch, the published code at the original, too.

    Returns:
      An unlearner that needs forget and retain data and labels. Cost: the passes, and one forward
      pass over both sets for the teacher.

    Raises:
      ValueError: for a value out of range.

    References:
      Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023 (arXiv 2302.09880).
    """
    checks.at_least(0, alpha=alpha, gamma=gamma, max_epochs=max_epochs)
    apart = objectives.divergence("original", temperature)
    objective = objectives.combine(
        forget=[(-1.0, apart)],
        retain=[(alpha, apart), (gamma, objectives.task_loss)],
        train=True,
    )
    return descend(
        objective,
        tx,
        over="alternate",
        num_epochs=num_epochs,
        batch_size=batch_size,
        teachers={"original": original_model},
        forget_epochs=max_epochs,
        record=("forget", "validation") if rewind else (),
        select=_forget_error_near_unseen if rewind else None,
    )


def bad_teacher(
    tx: Transform,
    *,
    num_epochs: int = 1,
    batch_size: int = 128,
    retain_fraction: float = 0.3,
    temperature: float = 1.0,
    weighting: str = "example",
) -> Unlearner:
    """Bad Teacher: a freshly initialised teacher on the forget set, the original on the retain set.

    Minimises `T^2 KL(teacher || student)`, the student in training mode. The published code has no
    factor `T^2` and divides by the number of classes, which Adam does not see.

    Args:
      tx: optax transformation; the paper's is Adam 1e-4.
      num_epochs: passes over the forget set and the retain subset, shuffled together.
      batch_size: examples per step.
      retain_fraction: share of the retain set that is used, in (0, 1].
      temperature: T of the softened predictions, > 0; 1 in the paper.
      weighting: see `objectives.combine`; in the paper every example weighs alike.

    Returns:
      An unlearner that needs forget and retain data, no labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023 (arXiv 2205.08096).
    """
    objective = objectives.combine(
        forget=[(1.0, objectives.divergence("incompetent", temperature))],
        retain=[(1.0, objectives.divergence("original", temperature))],
        train=True,
        weighting=weighting,
    )
    return descend(
        objective,
        tx,
        over="union",
        num_epochs=num_epochs,
        batch_size=batch_size,
        teachers={"original": original_model, "incompetent": incompetent_model},
        retain_fraction=retain_fraction,
        labels=False,
    )


def _forget_error_near_unseen(seen, request: Request) -> Array:
    """The epoch whose forget error is nearest to the last model's error on unseen examples.

    Of these, validation examples of the forgotten classes count; without any, it is the last epoch.
    """
    if "accuracy" not in seen["forget"]:
        raise ValueError(f"rewind needs accuracy, the task measures {sorted(seen['forget'])}")
    kind = jnp.isin(request.validation["targets"], request.forget["targets"])
    counts = kind * data_lib.weights(request.validation)
    unseen = seen["validation"]["accuracy"][-1]
    reference = jnp.sum(unseen * counts) / jnp.maximum(counts.sum(), 1e-12)
    accuracy = jnp.average(seen["forget"]["accuracy"], 1, data_lib.weights(request.forget))
    nearest = jnp.argmin(jnp.abs(accuracy - reference))
    return jnp.where(counts.sum() > 0, nearest, len(accuracy) - 1)
