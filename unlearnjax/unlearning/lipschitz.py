"""Just-in-time unlearning: smooth the model around the forget set; no labels, no retain set.

Foster et al., "An Information Theoretic Approach to Machine Unlearning", 2024 (arXiv 2402.01401).
"""

import jax
import jax.numpy as jnp

from unlearnjax import checks, tasks
from unlearnjax.types import Array, Unlearner
from unlearnjax.unlearning.descend import Transform, descend


def just_in_time(
    tx: Transform,
    *,
    sigma: float = 0.5,
    num_copies: int = 25,
    num_epochs: int = 1,
    batch_size: int = 128,
) -> Unlearner:
    """Minimises `||f(x) - f(x')|| / ||x - x'||` over the forget set and noisy copies x' of each x.

    `x' = clip(x + eps, min, max)` with eps ~ N(0, sigma^2), and min and max the smallest and the
    largest entry of the batch. The gradient goes through f(x) alone, f(x') is a constant. A step's
    loss is the mean over copies and the *sum* over the examples of the batch (weighted by `weight`,
    0 for padding), so a learning rate holds for one `batch_size`.

    As in the published code the model is in training mode throughout: every pass draws dropout anew
    and updates running statistics, which after a pass are those of the forget set and its copies.
    Two details are ours: batches are shuffled, and a copy that the clipping moves back onto its
    example counts 0 (published: 0 / 0).

    Args:
      tx: optax transformation; published is SGD 3e-4 for a VGG, 1.5 for a ViT.
      sigma: standard deviation of the noise in units of the inputs, > 0; published are 0.5 for a
        VGG and 0.8 for a ViT.
      num_copies: noisy copies of each example per step.
      num_epochs: passes over the forget set; published is one.
      batch_size: examples per step; compute is `1 + num_copies` forward passes of that and one
        backward pass, memory that of one pass.

    Returns:
      An unlearner that needs forget data only, no labels.

    Raises:
      ValueError: for a value out of range, at the request for inputs that are not floating-point.
    """
    checks.positive(sigma=sigma)
    checks.at_least(1, num_copies=num_copies)

    def objective(task, teachers):
        del teachers

        def loss_fn(variables, batch, rng):
            batch = tasks.drawn(task, batch, True)
            inputs, weight = batch["inputs"], batch["weight"]
            checks.floating(inputs=inputs)
            here_rng, copies_rng = jax.random.split(rng)
            outputs, updated = task.apply(variables, batch, here_rng, True)
            member = (weight > 0).reshape(-1, *[1] * (inputs.ndim - 1))
            low = jnp.min(jnp.where(member, inputs, jnp.inf))
            high = jnp.max(jnp.where(member, inputs, -jnp.inf))

            def copy(carried, key):
                noise_rng, apply_rng = jax.random.split(key)
                noise = sigma * jax.random.normal(noise_rng, inputs.shape, inputs.dtype)
                moved = jnp.clip(inputs + noise, low, high)
                there, carried = task.apply(carried, {**batch, "inputs": moved}, apply_rng, True)
                return carried, (tasks.logits(there), _norm(inputs - moved))

            updated, (logits, distances) = jax.lax.scan(
                copy, jax.lax.stop_gradient(updated), jax.random.split(copies_rng, num_copies)
            )
            changes = jax.vmap(_norm)(outputs["logits"] - logits)
            losses = (changes / jnp.where(distances > 0, distances, jnp.inf)).mean(0)
            # The step divides by the sum of weights; the published loss is a sum.
            return losses * weight.sum(), ({"objective": losses}, updated)

        return loss_fn

    return descend(
        objective, tx, over="forget", num_epochs=num_epochs, batch_size=batch_size, labels=False
    )


def _norm(x: Array) -> Array:
    """`[B]` Euclidean norms of `[B, ...]`, with a gradient of zero, not NaN, at zero."""
    flat = x.reshape(x.shape[0], -1).astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.sum(flat**2, axis=-1)
    return jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
