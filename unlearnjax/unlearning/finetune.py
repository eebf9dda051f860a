"""Fine-tuning: go on training on the retain set and count on forgetting."""

import optax

from unlearnjax import training
from unlearnjax.types import Unlearner
from unlearnjax.unlearning.descend import descend


def finetune(
    tx: optax.GradientTransformation, *, num_epochs: int = 10, batch_size: int = 128
) -> Unlearner:
    """Minimises the task's loss on the retain set from the trained model, in training mode.

    Args:
      tx: optax transformation; its learning rate is the method's main hyper-parameter.
      num_epochs: passes over the retain set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs retain data and labels.

    References:
      The baseline of Golatkar et al., "Eternal Sunshine of the Spotless Net", CVPR 2020.
    """
    return descend(
        training.supervised, tx, over="retain", num_epochs=num_epochs, batch_size=batch_size
    )
