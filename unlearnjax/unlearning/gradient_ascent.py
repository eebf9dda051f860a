"""Gradient ascent (NegGrad) and its balance with descent on the retain set (NegGrad+)."""

from unlearnjax import checks
from unlearnjax.types import Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend


def gradient_ascent(
    tx: Transform,
    *,
    num_epochs: int = 5,
    batch_size: int = 64,
    max_loss: float | None = None,
) -> Unlearner:
    """Maximises the loss on the forget set from the trained model, each example up to `max_loss`.

    Unbounded ascent diverges; an example whose loss has reached the bound no longer pushes. In
    evaluation mode, so that batch statistics of the forget set do not replace the training data's.

    Args:
      tx: optax transformation; its learning rate is the method's main hyper-parameter.
      num_epochs: passes over the forget set.
      batch_size: examples per step.
      max_loss: where an example stops pushing, see `objectives.bounded_loss`. The bound is ours:
        the published codes have none, `inf` here, and pick the number of steps by hand.

    Returns:
      An unlearner that needs forget data and labels; it never sees the retain set.

    Raises:
      ValueError: for a value out of range.

    References:
      Graves et al., "Amnesiac Machine Learning", AAAI 2021; Thudi et al., "Unrolling SGD", 2022.
    """
    objective = objectives.combine(forget=[(-1.0, objectives.bounded_loss(max_loss))])
    return descend(objective, tx, over="forget", num_epochs=num_epochs, batch_size=batch_size)


def gradient_ascent_plus(
    tx: Transform,
    *,
    num_epochs: int = 5,
    batch_size: int = 64,
    beta: float = 0.99,
    max_loss: float | None = None,
) -> Unlearner:
    """NegGrad+: minimises `beta * retain loss - (1 - beta) * forget loss`.

    Every step sees a batch of each set; an epoch passes over the retain set. In training mode.

    Args:
      tx: optax transformation.
      num_epochs: passes over the retain set.
      batch_size: examples of each set per step.
      beta: share of the retain loss, in [0, 1]; the published search is 0.95 to 0.9999.
      max_loss: where a forget example stops pushing, see `objectives.bounded_loss`. The bound is
        ours, so that a small beta does not diverge; `inf` is the published objective.

    Returns:
      An unlearner that needs forget and retain data and labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Kurmanji et al., "Towards Unbounded Machine Unlearning", NeurIPS 2023, equation 3.
    """
    checks.share(beta=beta)
    objective = objectives.combine(
        retain=[(beta, objectives.task_loss)],
        forget=[(beta - 1.0, objectives.bounded_loss(max_loss))],
        train=True,
    )
    return descend(objective, tx, over="paired", num_epochs=num_epochs, batch_size=batch_size)
