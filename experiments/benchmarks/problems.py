"""What the benchmarks compute on: random images, since time does not depend on their content."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import data as data_lib
from unlearnjax import models, tasks
from unlearnjax.types import Task, Variables

CIFAR = (32, 32, 3)
SHAPES = {"resnet18": CIFAR, "vit_tiny": CIFAR}
RANDOM = "random"


class Problem(NamedTuple):
    """A fresh model and the images it is measured on.

    Attributes:
      shape: of an image.
      text: how many of which images, for the name of a case.
    """

    task: Task
    data: dict[str, jax.Array]
    variables: Variables
    shape: tuple[int, int, int]
    text: str


def problem(
    model: str,
    num_examples: int,
    shape: tuple[int, int, int] | None = None,
    source: str | None = None,
    dtype: str = "float32",
    **options: Any,
) -> Problem:
    """The named model in ten classes, computing in `dtype`, with parameters in float32.

    Args:
      shape: of random images; by default what the model is for.
      source: see `examples`.
      options: of the model.
    """
    data, kind = examples(num_examples, shape or SHAPES.get(model, (28, 28, 1)), source)
    computes = {} if dtype == "float32" else {"dtype": jnp.dtype(dtype)}
    made = task(model, **options, **computes)
    variables = jax.jit(made.init)(jax.random.key(0), part(data, slice(1)))
    text = f"{num_examples} {kind}"
    return Problem(made, data, variables, data["inputs"].shape[1:], text)


def examples(num_examples: int, shape, source: str | None = None) -> tuple[dict, str]:
    """Images, and what to call them.

    Args:
      shape: of random ones.
      source: `None` for random images of `shape`, 'random' for ones of the size of CIFAR-10's, or
        the directory in which tfds has CIFAR-10 prepared.
    """
    if source is None:
        return images(num_examples, shape), "examples"
    if source == RANDOM:
        return images(num_examples, CIFAR), "random images"
    train = cifar10(source)
    if num_examples > len(train["targets"]):
        raise ValueError(f"CIFAR-10 has {len(train['targets'])} images, asked for {num_examples}")
    columns = ("inputs", "targets", "index")
    data = {name: jnp.asarray(train[name][:num_examples]) for name in columns}
    return data, "CIFAR-10 images"


@functools.cache
def cifar10(data_dir: str) -> dict[str, np.ndarray]:
    """The training set, standardised, read once.

    Raises:
      ValueError: if it is not prepared there; nothing is downloaded, which takes minutes to fail.
    """
    if not list(Path(data_dir).glob("cifar10/*/dataset_info.json")):
        raise ValueError(
            f"data_dir must have CIFAR-10 prepared by tfds (cifar10/*/dataset_info.json), got "
            f"{data_dir}; without --data_dir and $UNLEARNJAX_DATA_DIR images are random"
        )
    return data_lib.load("cifar10", data_dir).train


def images(num_examples: int, shape=(28, 28, 1)) -> dict[str, jax.Array]:
    """A data set of `num_examples` images in ten classes."""
    rng = np.random.default_rng(0)
    return {
        "inputs": jnp.asarray(rng.standard_normal((num_examples, *shape), np.float32)),
        "targets": jnp.asarray(rng.integers(0, 10, num_examples), jnp.int32),
        "index": jnp.arange(num_examples, dtype=jnp.int32),
    }


def task(model: str = "convnet", **options):
    """A ten-class task with the named model."""
    return tasks.classification(tasks.from_linen(models.by_name(model, num_classes=10, **options)))


def part(data, rows):
    """The examples at `rows`."""
    return {name: value[rows] for name, value in data.items()}
