"""The tasks that a config may name, with what each makes of a data set and of training."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from experiments.common import answering, denoising, graphs, grids
from unlearnjax import data as data_lib
from unlearnjax import tasks
from unlearnjax.data.graph_requests import GraphRequest
from unlearnjax.training.fit import Training
from unlearnjax.types import Batch, Data, Task, Variables


def _select(config: ConfigDict, dataset: data_lib.Dataset, *parts: Any):
    del dataset
    return data_lib.forget_sets.select(config.forget, *parts)


def _split(train: dict, held_out: dict, fraction: float, rng: np.random.Generator) -> tuple:
    return (*data_lib.split_validation(train, fraction, rng), held_out)


class Kind(NamedTuple):
    """A task by name.

    Attributes:
      make: `(model, config, dataset) -> Task`.
      arguments: columns that its models are called with.
      view: what it makes of a data set.
      fields: of constructors of unlearners, which those that have them get from the task.
      given: `(config, dataset) -> {field: value}` of these.
      validate: `(config, dataset, forget, retain, unlearners)`: raises `ValueError` for what the
        methods cannot do with these examples, whose inputs it does not see.
      augment: what `config.train.augment` does to an example.
      load: `(config, data_dir) -> Dataset`; `None`: `data.load`, with what the config makes of it.
      split: `(train, held_out, fraction, rng) -> (train, validation, held_out)`.
      apart: whether nobody of whom the held-out data is appears in the training data, so that all
        of it is unseen, and a test, whatever is forgotten.
      training: `(config, tx) -> Training` of originals, oracles and retraining.
      base: `(config, data_dir) -> Data` that a base is trained on, see `measure.based`.
      base_task: `(config, dataset, task) -> Task` that a base learns, of the task of the others.
      from_base: `variables of a base -> variables` that the others start from.
      model: `(config, dataset, dtype) -> module` that the name alone does not describe; `None`: by
        name.
      start: `(config, variables) -> variables`: published weights as the task's models have them.
      export: `(config, folder, variables)` writes an unlearned model as others read it.
      request: `(config, dataset) -> GraphRequest` of `data.graph_requests`, where what is to be
        forgotten is a part of what models carry.
      select: `(config, dataset, train, held_out, rng) -> Selection` of the forget set.
      asked: `(config, dataset, train) -> [(forget, retain)]`: the requests one after another, the
        columns of each forget set and the positions of what is retained then; `None`: one request
        of the selected rows as they are.
    """

    make: Callable[[tasks.Model, ConfigDict, data_lib.Dataset], Task]
    arguments: tuple[str, ...] = ("inputs",)
    view: Callable[[data_lib.Dataset], data_lib.Dataset] = lambda dataset: dataset
    fields: tuple[str, ...] = ()
    given: Callable[[ConfigDict, data_lib.Dataset], dict[str, Any]] = lambda config, dataset: {}
    validate: Callable[..., None] = lambda *_: None
    augment: Callable[..., Batch] = data_lib.pad_crop_flip
    load: Callable[[ConfigDict, str | None], data_lib.Dataset] | None = None
    split: Callable[..., tuple[dict, dict, dict]] = _split
    apart: bool = False
    training: Callable[[ConfigDict, Training], Training] = lambda config, tx: tx
    base: Callable[[ConfigDict, str | None], Data] | None = None
    base_task: Callable[[ConfigDict, data_lib.Dataset, Task], Task] = lambda c, d, task: task
    from_base: Callable[[Variables], Variables] = lambda variables: variables
    model: Callable[[ConfigDict, Any, Any], nn.Module | None] = lambda *_: None
    start: Callable[[ConfigDict, Variables], Variables] = lambda config, variables: variables
    export: Callable[[ConfigDict, Path, Variables], None] = lambda *_: None
    request: Callable[[ConfigDict, Any], GraphRequest] | None = None
    select: Callable[..., data_lib.forget_sets.Selection] = _select
    asked: Callable[..., list[tuple[Data, np.ndarray]]] | None = None


TASKS = {
    "classification": Kind(lambda model, *_: tasks.classification(model)),
    "regression": Kind(lambda model, *_: tasks.regression(model)),
    "diffusion": Kind(
        denoising.task,
        denoising.ARGUMENTS,
        data_lib.conditioned,
        denoising.FIELDS,
        denoising.given,
        denoising.validate,
        functools.partial(data_lib.pad_crop_flip, padding=0),  # it would draw what is cropped
    ),
    "text_diffusion": Kind(
        grids.task,
        denoising.ARGUMENTS,
        fields=denoising.FIELDS,
        given=grids.given,
        augment=functools.partial(data_lib.pad_crop_flip, padding=0),
        load=grids.dataset,
        split=data_lib.style_grid.split_by_image,
        training=grids.recipe,
        base=grids.base,
        base_task=grids.pair,
        from_base=grids.text_encoder,
        model=grids.model,
        select=grids.select,
        asked=grids.asked,
    ),
    "language": Kind(
        answering.task,
        load=answering.dataset,
        split=answering.split,
        apart=True,
        training=answering.recipe,
        base=answering.base,
        model=answering.model,
        start=answering.start,
        export=answering.export,
    ),
    **{
        name: Kind(make, graphs.ARGUMENTS, load=graphs.dataset, request=graphs.request)
        for name, make in (
            ("node_classification", graphs.node_task),
            ("link_prediction", graphs.link_task),
        )
    },
}


def of(config: Mapping[str, Any]) -> Kind:
    """The kind of the config's task; what all do where the task is one of the user's own."""
    return TASKS.get(config.get("task"), _OWN)


_OWN = Kind(lambda *_: None)
