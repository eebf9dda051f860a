"""Just-in-time unlearning: smooth the model around the forget set; no labels, no retain set.

Foster et al., "An Information Theoretic Approach to Machine Unlearning", 2024 (arXiv 2402.01401).
"""

import jax
import jax.numpy as jnp

from unlearnjax import checks
from unlearnjax.types import Unlearner
from unlearnjax.unlearning.descend import Transform, descend


def just_in_time(
    tx: Transform,
    *,
    sigma: float = 0.5,
    num_copies: int = 25,
    num_epochs: int = 1,
    batch_size: int = 64,
) -> Unlearner:
    """Minimises `E_eps ||f(x) - f(x + eps)|| / ||eps||` over the forget set, eps ~ N(0, sigma^2).

    Args:
      tx: optax transformation; the paper's is SGD.
      sigma: standard deviation of the perturbation in units of the inputs, > 0.
      num_copies: perturbed copies of each example per step.
      num_epochs: passes over the forget set.
      batch_size: examples per step; compute and memory are `1 + num_copies` times that.

    Returns:
      An unlearner that needs forget data only, no labels.

    Raises:
      ValueError: for a value out of range.
    """
    checks.positive(sigma=sigma)
    checks.at_least(1, num_copies=num_copies)

    def objective(task, teachers):
        del teachers

        def loss_fn(variables, batch, rng):
            inputs = batch["inputs"]
            outputs, _ = task.apply(variables, batch, None, False)

            def stretch(key):
                noise = sigma * jax.random.normal(key, inputs.shape, inputs.dtype)
                moved, _ = task.apply(variables, {**batch, "inputs": inputs + noise}, None, False)
                change = _norm(outputs["logits"] - moved["logits"])
                return change / _norm(noise.reshape(len(noise), -1))

            losses = jax.vmap(stretch)(jax.random.split(rng, num_copies)).mean(0)
            return losses, ({"objective": losses}, variables)

        return loss_fn

    return descend(
        objective, tx, over="forget", num_epochs=num_epochs, batch_size=batch_size, labels=False
    )


def _norm(x: jax.Array) -> jax.Array:
    """`[B]` Euclidean norms, with a gradient of zero, not NaN, at zero."""
    squared = jnp.sum(x**2, axis=-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
