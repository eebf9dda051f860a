"""Diffusion from a config: the process, the task, and what unlearners have from it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from unlearnjax import checks, diffusion, tasks
from unlearnjax.data import Dataset
from unlearnjax.types import Data, Request, Task, Unlearner
from unlearnjax.unlearning.diffusion import conditions

SCHEDULES = {
    "linear": diffusion.linear,
    "scaled_linear": diffusion.scaled_linear,
    "cosine": diffusion.cosine,
}
# Methods for which a forgotten class may become another one that is forgotten.
BECOME_OTHERS = ("salun_diffusion",)
ARGUMENTS = ("noised", "time", "condition")
FIELDS = ("process",)


def process(
    config: ConfigDict, dataset: Dataset, null: int | tuple[int, ...] | None = None
) -> diffusion.Process:
    """How images of the data set become noise, as `config.task_options` says.

    `null` is the condition that says nothing; `None`: that of classes.
    """
    options = config.task_options
    checks.one_of(**{"task_options.schedule": (options.schedule, tuple(SCHEDULES))})
    return diffusion.Process(
        SCHEDULES[options.schedule](options.num_steps),
        dataset.train["inputs"].shape[1:],
        dataset.num_classes if null is None else null,
        options.prediction,
    )


def task(
    model: tasks.Model,
    config: ConfigDict,
    dataset: Dataset,
    null: int | tuple[int, ...] | None = None,
) -> Task:
    """The diffusion task, which draws as `config.evaluate.sampling` says."""
    own, sampling = process(config, dataset, null), config.evaluate.sampling
    return tasks.diffusion(
        model,
        own,
        condition_dropout=config.task_options.condition_dropout,
        num_draws=sampling.num_draws,
        sampler=diffusion.ddim(own, sampling.num_steps),
        guidance=sampling.guidance,
    )


def given(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """`FIELDS` of unlearners."""
    return {"process": process(config, dataset)}


def validate(
    config: ConfigDict,
    dataset: Dataset,
    forget: Data,
    retain: Data,
    unlearners: Mapping[str, Unlearner],
) -> None:
    """Checks what a compiled request cannot, whose conditions are not known while it is traced.

    Args:
      config, dataset: of the run.
      forget, retain: either set, of which it reads `condition`.
      unlearners: by the names that the config has.

    Raises:
      ValueError: for a class that becomes itself, or one that is forgotten as well; and where a
        method that is told of conditions alone would forget some that others are to keep.
    """
    own, request = process(config, dataset), Request({"condition": forget["condition"]})
    both = np.intersect1d(forget["condition"], retain["condition"]).tolist()
    for name, unlearner in unlearners.items():
        fields, shared = config.unlearn[name], config.unlearn.get("anchor")
        if both and "forget" in unlearner.needs and "inputs" not in unlearner.needs:
            raise ValueError(
                f"{name} forgets whole classes, but of {both[:5]} there are retained examples in "
                f"forget={config.forget}"
            )
        if "anchor" in fields:
            among = fields.get("constructor", name) in BECOME_OTHERS
            check = conditions.validate_replacement if among else conditions.validate_request
            try:
                check(request, fields.anchor if shared is None else shared, own)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
