"""Judges of images: classifiers that say what a generator's samples show.

There are two, of different seeds and trained on disjoint halves of the training data, so that no
number is one network's opinion. They see real images alone.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.common import measure, runner
from unlearnjax import data as data_lib
from unlearnjax import models, parallel, tasks, training
from unlearnjax.types import Data, Task, Variables

NUMBER = 2


class Judges(NamedTuple):
    """Trained classifiers.

    Attributes:
      task: of all of them.
      variables: of each.
      batch_size: images per step of their evaluation.
    """

    task: Task
    variables: tuple[Variables, ...]
    batch_size: int


class Opinion(NamedTuple):
    """A judge on N images: probabilities `[N, C]` and penultimate features `[N, D]`."""

    probs: np.ndarray
    features: np.ndarray


def train(
    bench: measure.Bench,
    run: runner.Run,
    label: str = "targets",
    num_classes: int | None = None,
    name: str = "judge",
) -> Judges:
    """Both judges as `config.evaluate.judges` says, checkpointed with the run.

    Args:
      bench, run: the problem.
      label: the column that they are to tell.
      num_classes: of it; `None`: of the data set.
      name: of their checkpoints, and of their random keys.
    """
    config = bench.config.evaluate.judges
    num_classes = num_classes or bench.problem.dataset.num_classes
    module = models.by_name(config.model.name, num_classes=num_classes, **config.model.options)
    task = tasks.classification(tasks.from_linen(module))
    if config.train.augment:
        task = tasks.augmented(task, data_lib.pad_crop_flip)
    run.extend(NUMBER * config.train.num_epochs)
    fits, keys = [], names(name)
    data = bench.train
    if label != "targets":
        data = {**data, "targets": data[label]}
    for seed, half in enumerate(halves(len(bench.problem.train["targets"]), bench.config.seed)):
        fitter = measure.fitter(ConfigDict({"train": config.train}), task, data, half)
        fits.append(fitter.fit(run, keys[seed], runner.key(bench.config.seed, name, seed)))
    variables = tuple(fit.variables for fit in fits)
    return Judges(task, variables, bench.config.evaluate.batch_size)


def names(name: str = "judge") -> tuple[str, ...]:
    """Of the judges' checkpoints."""
    return tuple(f"{name}{seed}" for seed in range(NUMBER))


def halves(size: int, seed: int) -> list[np.ndarray]:
    """Positions of disjoint random halves, one for each judge."""
    order = np.random.default_rng(seed).permutation(size)
    return [np.sort(order[number::NUMBER]) for number in range(NUMBER)]


def judge(judges: Judges, pixels: np.ndarray) -> list[Opinion]:
    """What each judge says of images `[N, H, W, C]` in bytes."""
    data = measure.place({"inputs": inputs(pixels)})
    return [
        Opinion(*parallel.fetch(_judge(judges.task, variables, data, judges.batch_size)))
        for variables in judges.variables
    ]


def accuracies(opinions: list[Opinion], classes: np.ndarray) -> list[float]:
    """How often each judge says what an image was drawn for, or is."""
    return [float((opinion.probs.argmax(1) == classes).mean()) for opinion in opinions]


def pixels(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1], clipped, as bytes; what is no number becomes grey."""
    finite = np.nan_to_num(np.asarray(images, np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
    return np.round(127.5 * (1 + np.clip(finite, -1, 1))).astype(np.uint8)


def inputs(pixels: np.ndarray) -> np.ndarray:
    """Bytes as images in [-1, 1], as `data.conditioned` has them."""
    return (np.asarray(pixels) / 127.5 - 1).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _judge(task: Task, variables: Variables, data: Data, batch_size: int):
    found = training.outputs(task, variables, data, batch_size=batch_size)
    return jax.nn.softmax(found["logits"]), found["features"]
