"""Classification: a model, cross-entropy, and the per-example numbers audits read."""

import chex
import jax
import jax.numpy as jnp
import optax

from unlearnjax.tasks.adapters import Model
from unlearnjax.types import Array, Batch, Outputs, Task


def margin(logits: Array, targets: Array) -> Array:
    """`[B]`: log-odds of the true class, `logit_y - logsumexp(other logits)`.

    References:
      Georgiev et al., "Attribute-to-Delete", ICLR 2025 (the output KLoM is defined on).

    Examples:
      >>> margin(jnp.array([[2.0, 0.0]]), jnp.array([0])).tolist()
      [2.0]
    """
    chex.assert_rank([logits, targets], [2, 1])
    is_target = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, logits), axis=-1)
    return jnp.take_along_axis(logits, targets[:, None], axis=-1)[:, 0] - others


def classification(model: Model) -> Task:
    """A Task with softmax cross-entropy on `targets` `[B]` (int class ids).

    Metrics: `accuracy` (0 or 1), `confidence` (probability of the true class), `entropy` (nats),
    `margin` (log-odds of the true class).

    Divergence: `T^2 KL(reference || outputs)` of the softened predictions (Hinton et al., 2015).

    Args:
      model: an `(init, apply)` pair: `from_linen(...)`, `from_nnx(...)` or your own.

    Examples:
      >>> from unlearnjax import models, tasks
      >>> task = tasks.classification(tasks.from_linen(models.MLP(num_classes=3)))
      >>> batch = {"inputs": jnp.ones((2, 4)), "targets": jnp.array([0, 2])}
      >>> variables = task.init(jax.random.key(0), batch)
      >>> outputs, _ = task.apply(variables, batch, None, False)
      >>> outputs["logits"].shape, task.loss(outputs, batch).shape
      ((2, 3), (2,))
    """

    def loss(outputs: Outputs, batch: Batch) -> Array:
        logits, targets = outputs["logits"], batch["targets"]
        chex.assert_rank([logits, targets], [2, 1])
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

    def metrics(outputs: Outputs, batch: Batch) -> dict[str, Array]:
        logits, targets = outputs["logits"], batch["targets"]
        log_probs = jax.nn.log_softmax(logits)
        probs = jnp.exp(log_probs)
        return {
            "accuracy": (logits.argmax(-1) == targets).astype(jnp.float32),
            "confidence": jnp.take_along_axis(probs, targets[:, None], axis=-1)[:, 0],
            "entropy": -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1),
            "margin": margin(logits, targets),
        }

    def divergence(outputs: Outputs, reference: Outputs, batch: Batch, temperature: float = 1.0):
        del batch
        student = jax.nn.log_softmax(outputs["logits"] / temperature)
        target = jax.nn.softmax(reference["logits"] / temperature)
        return temperature**2 * optax.kl_divergence(student, target)

    return Task(model.init, model.apply, loss, metrics, divergence=divergence)
