"""What the benchmarks compute on: random images, since time does not depend on their content."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import models, tasks


def images(num_examples: int, shape=(28, 28, 1)) -> dict[str, jax.Array]:
    """A data set of `num_examples` images in ten classes."""
    rng = np.random.default_rng(0)
    return {
        "inputs": jnp.asarray(rng.normal(size=(num_examples, *shape)), jnp.float32),
        "targets": jnp.asarray(rng.integers(0, 10, num_examples), jnp.int32),
        "index": jnp.arange(num_examples, dtype=jnp.int32),
    }


def task(model: str = "convnet"):
    """A ten-class task with the named model."""
    return tasks.classification(tasks.from_linen(models.by_name(model, num_classes=10)))
