"""What the benchmarks compute on: random images, since time does not depend on their content."""

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import models, tasks

SHAPES = {"resnet18": (32, 32, 3), "vit_tiny": (32, 32, 3)}


def shape(model: str) -> tuple[int, int, int]:
    """Of the images that the model is measured on."""
    return SHAPES.get(model, (28, 28, 1))


def images(num_examples: int, shape=(28, 28, 1)) -> dict[str, jax.Array]:
    """A data set of `num_examples` images in ten classes."""
    rng = np.random.default_rng(0)
    return {
        "inputs": jnp.asarray(rng.normal(size=(num_examples, *shape)), jnp.float32),
        "targets": jnp.asarray(rng.integers(0, 10, num_examples), jnp.int32),
        "index": jnp.arange(num_examples, dtype=jnp.int32),
    }


def task(model: str = "convnet", **options):
    """A ten-class task with the named model."""
    return tasks.classification(tasks.from_linen(models.by_name(model, num_classes=10, **options)))


def part(data, rows):
    """The examples at `rows`."""
    return {name: value[rows] for name, value in data.items()}
