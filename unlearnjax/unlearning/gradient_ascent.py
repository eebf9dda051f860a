"""Gradient ascent (NegGrad): climb the loss on the forget set, up to a bound."""

import jax.numpy as jnp
import optax

from unlearnjax.types import Task, Unlearner
from unlearnjax.unlearning.descend import descend


def bounded_ascent(max_loss: float | None = None):
    """Objective `-min(loss, max_loss)` per example, in evaluation mode.

    An example whose loss has reached the bound no longer pushes; unbounded ascent diverges.
    Evaluation mode, so that batch statistics of the forget set do not replace the training data's.

    Args:
      max_loss: nats, > 0; `None` is the loss of a uniform guess, the log of the number of logits.
    """
    if max_loss is not None and not max_loss > 0:
        raise ValueError(f"max_loss must be > 0, got {max_loss}")

    def objective(task: Task):
        def ascent(variables, batch, rng):
            del rng
            outputs, _ = task.apply(variables, batch, None, False)
            losses = task.loss(outputs, batch)
            bound = jnp.log(outputs["logits"].shape[-1]) if max_loss is None else max_loss
            return -jnp.minimum(losses, bound), ({"loss": losses}, variables)

        return ascent

    return objective


def gradient_ascent(
    tx: optax.GradientTransformation,
    *,
    num_epochs: int = 5,
    batch_size: int = 64,
    max_loss: float | None = None,
) -> Unlearner:
    """Maximises the loss on the forget set from the trained model, each example up to `max_loss`.

    Args:
      tx: optax transformation; its learning rate is the method's main hyper-parameter.
      num_epochs: passes over the forget set.
      batch_size: examples per step.
      max_loss: where an example stops pushing, see `bounded_ascent`.

    Returns:
      An unlearner that needs forget data and labels; it never sees the retain set.

    Raises:
      ValueError: for a value out of range.

    References:
      Graves et al., "Amnesiac Machine Learning", AAAI 2021; Thudi et al., "Unrolling SGD", 2022.
    """
    return descend(
        bounded_ascent(max_loss), tx, over="forget", num_epochs=num_epochs, batch_size=batch_size
    )
