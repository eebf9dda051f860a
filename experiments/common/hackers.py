"""How a hacker trains on images that were protected: what it does to its training examples."""

import functools

from ml_collections import ConfigDict

from experiments.common import build
from unlearnjax import data as data_lib
from unlearnjax import tasks, training
from unlearnjax.data import pixels
from unlearnjax.tasks.draws import Augment
from unlearnjax.training.fit import Recipe
from unlearnjax.types import Array, Batch, Task

# What each does in the loop, to pixels in [0, 1]: `(task, num_classes, fields) -> Perturb`.
PERTURBS = {
    "linf": lambda task, _, fields: training.pgd(task, norm="linf", bounds=(0.0, 1.0), **fields),
    "l2": lambda task, _, fields: training.pgd(task, norm="l2", bounds=(0.0, 1.0), **fields),
    "smoothing": lambda task, _, fields: training.gaussian(**fields),
    # The control of the next: filters that nobody has searched for.
    "filters": lambda task, number, fields: training.deconvolution(
        task, number, num_steps=1, step_size=0.0, **fields
    ),
    "deconvolution": lambda task, number, fields: training.deconvolution(task, number, **fields),
}
# Goes on from a model of other images.
TRANSFER = "transfer"
HACKERS = ("plain", "augmented", *PERTURBS, "sharpening", TRANSFER)


def recipe(
    hacker: str,
    config: ConfigDict,
    task: Task,
    dataset: data_lib.Dataset,
    scale: pixels.PixelScale,
    num_examples: int,
) -> Recipe:
    """How the hacker trains `task`, with its fields of `config.hacker`; see `HACKERS`.

    Of `TRANSFER` it is plain training; what it starts from is the caller's.
    """
    fields = config.hacker[hacker].to_dict() if hacker in config.hacker else {}
    if hacker == "augmented":
        task = tasks.augmented(task, functools.partial(data_lib.pad_crop_flip, **fields))
    elif hacker == "sharpening":
        task = tasks.augmented(task, sharpened(scale, fields))
    loss_fn = training.supervised(task)
    if hacker in PERTURBS:
        make = lambda task: PERTURBS[hacker](task, dataset.num_classes, fields)
        # The scale is all that is needed of the standardisation: pixels lie in [0, 1].
        attack = training.in_pixels(make, task, scale.shift, scale.scale, low=0.0, high=1.0)
        loss_fn = training.perturbed(loss_fn, attack)
    return training.descent(task, build.training_optimizer(config, num_examples), loss_fn)


def sharpened(scale: pixels.PixelScale, fields: dict[str, float]) -> Augment:
    """`data.sharpen` of standardised inputs."""

    def augment(rng: Array, example: Batch) -> Batch:
        stored = {**example, "inputs": pixels.to_pixels(example["inputs"], scale)}
        moved = data_lib.sharpen(rng, stored, **fields)["inputs"]
        return {**example, "inputs": pixels.to_inputs(moved, scale)}

    return augment
