"""Grids of styles and objects from a config: captioned images, models, what is to be forgotten."""

import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.common import denoising
from unlearnjax import data as data_lib
from unlearnjax import diffusion, models, tasks, training
from unlearnjax.data import captions, concept_requests, style_grid
from unlearnjax.data.concept_requests import Concept
from unlearnjax.data.forget_sets import Selection
from unlearnjax.data.style_grid import StyleGrid
from unlearnjax.training.fit import Recipe, Training
from unlearnjax.types import Array, Batch, Data, Request, Task, Variables
from unlearnjax.unlearning.diffusion import concepts as concepts_lib

ENCODER = "text_encoder"  # in the parameters of denoisers, and of the pair


def dataset(config: ConfigDict, data_dir: str | None) -> StyleGrid:
    """`config.dataset`: 'digits', 'fashion_mnist', 'folder' (at `config.source`) or a tfds set.

    Raises:
      ValueError: for a set that cannot be read, and options without a meaning.
    """
    for field in ("target", "superclasses", "weights"):
        if config[field]:
            raise ValueError(f"{field} has no meaning for a grid of styles, got {config[field]!r}")
    return _dataset(config.dataset, data_dir, config.source, config.task_options.image_size)


@functools.cache
def _dataset(name: str, data_dir: str | None, source: str | None, size: int) -> StyleGrid:
    if name == "digits":
        return style_grid.digits()
    if name == "fashion_mnist":
        return style_grid.fashion_mnist(data_dir)
    if name != "folder":
        return style_grid.from_builder(data_lib.builder(name, data_dir))
    if source is None:
        raise ValueError("dataset 'folder' is read from files: give --config.source=PATH")
    return style_grid.folder(source, size)


def process(config: ConfigDict, dataset: StyleGrid) -> diffusion.Process:
    """How images become noise; the condition that says nothing is the empty caption."""
    return denoising.process(config, dataset, dataset.vocabulary.empty)


def model(config: ConfigDict, dataset: StyleGrid, dtype) -> models.TextDiT:
    """The denoiser that reads captions, of `config.model`."""
    return models.TextDiT(_encoder(config, dataset, dtype), dtype=dtype, **config.model.options)


def task(model: tasks.Model, config: ConfigDict, dataset: StyleGrid) -> Task:
    """The diffusion task, of which training hears each image called by one of its captions."""
    own = denoising.task(model, config, dataset, dataset.vocabulary.empty)
    return tasks.augmented(own, captions.paraphrased)


def given(config: ConfigDict, dataset: StyleGrid) -> dict[str, diffusion.Process]:
    """`denoising.FIELDS` of unlearners."""
    return {"process": process(config, dataset)}


def recipe(config: ConfigDict, tx: Training) -> Training:
    """Trains the denoiser; the text encoder, where a pair has learned it, stays as it is."""
    if config.get("base") is None:
        return tx

    def of_denoiser(task: Task) -> Recipe:
        own = training.recipe(_held(task), tx)

        def step(state, batch, rng):
            # Weight decay moves what has no gradient, too.
            new, metrics = own.step(state, batch, rng)
            return new._replace(variables=_with_encoder(new.variables, state)), metrics

        # An average of what never moved would differ from it by rounding.
        deploy = lambda state: _with_encoder(own.deploy(state), state)
        return own._replace(step=step, deploy=deploy)

    return of_denoiser


def select(
    config: ConfigDict, dataset: StyleGrid, train: dict, held_out: dict, rng: np.random.Generator
) -> Selection:
    """The rows of `config.forget`, see `concept_requests.SPECS`."""
    del rng
    return concept_requests.select(config.forget, dataset, train, held_out)


def requests(config: ConfigDict, dataset: StyleGrid) -> list[list[Concept]]:
    """What `config.forget` says, see `concept_requests.requested`."""
    return concept_requests.requested(config.forget, dataset.styles, dataset.class_names)


def asked(config: ConfigDict, dataset: StyleGrid, train: dict) -> list[tuple[Data, np.ndarray]]:
    """The requests of `config.forget` one after another: each forget set, and what is left then.

    Erasers are told what the concept becomes, `config.anchor` or else as `concept_requests.anchors`
    says; nothing becomes what was forgotten before.

    Raises:
      ValueError: for an anchor that cannot be, a request of which nothing is left to forget, and
        captions that are to be forgotten and kept.
    """
    gone, before, found = np.zeros(len(train["style"]), bool), [], []
    for concepts in requests(config, dataset):
        own = concept_requests.covers(concepts, train["style"], train["object"]) & ~gone
        if not own.any():
            names = [concept_requests.name_of(concept, dataset) for concept in concepts]
            raise ValueError(f"forget={config.forget!r}: nothing is left to forget of {names}")
        becomes = concept_requests.anchors(concepts, dataset, config.anchor, before)
        rows = {name: value[own] for name, value in train.items()}
        gone, before = gone | own, [*before, *concepts]
        told = concept_requests.forgetting(rows, concepts, becomes, dataset)
        _validate(told, {name: value[~gone] for name, value in train.items()}, config, dataset)
        found.append((told, np.flatnonzero(~gone)))
    return found


def _validate(forget: Data, retain: Data, config: ConfigDict, dataset: StyleGrid) -> None:
    """Raises `ValueError` for captions that compiled erasers could not refuse."""

    def of_cells(data: Data) -> dict[str, np.ndarray]:
        """The captions of one image of each style and object, as all of them have the same."""
        cells = data["style"] * len(dataset.class_names) + data["object"]
        first = np.unique(cells, return_index=True)[1]
        ours = ("condition", "captions", "concept", "concepts")
        return {k: v[first] for k, v in data.items() if k.rpartition(".")[2] in ours}

    request = Request(of_cells(forget), of_cells(retain))
    concepts_lib.told(request, process(config, dataset))


def base(config: ConfigDict, data_dir: str | None) -> Data:
    """What the pair learns: every image, and all that it is called."""
    train = dataset(config, data_dir).train
    return {name: train[name] for name in ("inputs", "condition", "captions", "index")}


def pair(config: ConfigDict, dataset: StyleGrid, task: Task | None = None) -> Task:
    """The contrastive task of images and captions, of which `config.base` has the image half."""
    del task
    own = config.base.image_encoder
    image = models.ViT(own.size, **own.options)
    module = models.CLIP(image, _encoder(config, dataset, None))
    model = tasks.from_linen(module, ("inputs", "condition"))
    return tasks.augmented(tasks.contrastive(model), captions.paraphrased)


def text_encoder(variables: Variables) -> Variables:
    """Of the pair's variables, what a denoiser starts from."""
    return {"params": {ENCODER: variables["params"][ENCODER]}}


def _encoder(config: ConfigDict, dataset: StyleGrid, dtype) -> models.TextEncoder:
    words = dataset.vocabulary
    options = config.model.text_encoder
    return models.TextEncoder(len(words.words), length=words.length, dtype=dtype, **options)


def _with_encoder(variables: Variables, state: training.TrainState) -> Variables:
    """The variables with the text encoder of a state."""
    held = state.variables["params"][ENCODER]
    return {**variables, "params": {**variables["params"], ENCODER: held}}


def _held(task: Task) -> Task:
    """The task whose text encoder gets no gradient."""

    def apply(variables: Variables, batch: Batch, rng: Array | None, train: bool):
        params = variables["params"]
        held = {**params, ENCODER: jax.lax.stop_gradient(params[ENCODER])}
        outputs, updated = task.apply({**variables, "params": held}, batch, rng, train)
        return outputs, {**updated, "params": params}

    return task._replace(apply=apply)
