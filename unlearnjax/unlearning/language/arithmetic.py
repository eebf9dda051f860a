"""Task vectors: what learning the forget set adds to the parameters is subtracted from them."""

import jax

from unlearnjax import checks
from unlearnjax.types import Unlearner
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.descend import Transform, descend


def task_vector(
    tx: Transform, *, alpha: float = 1.0, num_epochs: int = 5, batch_size: int = 32
) -> Unlearner:
    """Negated task vector: `theta_0 - alpha (theta_ft - theta_0)`.

    theta_ft is theta_0 fine-tuned on the forget set, in evaluation mode (published models have no
    dropout). The parameters alone change; the published code subtracts buffers, too.

    Args:
      tx: optax transformation of the fine-tuning.
      alpha: 0 changes nothing, -1 is the fine-tuned model.
      num_epochs: passes over the forget set.
      batch_size: examples per step.

    Returns:
      An unlearner that needs forget data and labels.

    Raises:
      ValueError: for a value out of range.

    References:
      Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023 (arXiv 2212.04089); Shi et
      al., "MUSE: Machine Unlearning Six-Way Evaluation for Language Models", ICLR 2025.
    """
    checks.finite(alpha=alpha)
    tuning = descend(
        objectives.combine(forget=[(1.0, objectives.task_loss)]),
        tx,
        over="forget",
        num_epochs=num_epochs,
        batch_size=batch_size,
    )

    def update(rng, task, variables, memory, request):
        tuned, memory = tuning.update(rng, task, variables, memory, request)
        away = lambda given, other: given - (alpha * (other - given)).astype(given.dtype)
        params = jax.tree.map(away, variables["params"], tuned["params"])
        return {**variables, "params": params}, memory

    return tuning._replace(update=update)
