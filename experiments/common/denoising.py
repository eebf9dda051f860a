"""Diffusion from a config: the process, the task, and what unlearners have from it."""

from typing import Any

from ml_collections import ConfigDict

from unlearnjax import checks, diffusion, tasks
from unlearnjax.data import Dataset
from unlearnjax.types import Task

SCHEDULES = {
    "linear": diffusion.linear,
    "scaled_linear": diffusion.scaled_linear,
    "cosine": diffusion.cosine,
}
ARGUMENTS = ("noised", "time", "condition")


def process(config: ConfigDict, dataset: Dataset) -> diffusion.Process:
    """How images of the data set become noise, as `config.task_options` says."""
    options = config.task_options
    checks.one_of(**{"task_options.schedule": (options.schedule, tuple(SCHEDULES))})
    return diffusion.Process(
        SCHEDULES[options.schedule](options.num_steps),
        dataset.train["inputs"].shape[1:],
        dataset.num_classes,
        options.prediction,
    )


def task(model: tasks.Model, config: ConfigDict, dataset: Dataset) -> Task:
    """The diffusion task, which draws as `config.evaluate.sampling` says."""
    own, sampling = process(config, dataset), config.evaluate.sampling
    return tasks.diffusion(
        model,
        own,
        condition_dropout=config.task_options.condition_dropout,
        num_draws=sampling.num_draws,
        sampler=diffusion.ddim(own, sampling.num_steps),
        guidance=sampling.guidance,
    )


def given(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Fields of unlearners: `process`."""
    return {"process": process(config, dataset)}
