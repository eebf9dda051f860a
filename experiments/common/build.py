"""From a config to the objects of the library."""

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from experiments.common import kinds
from unlearnjax import (
    checks,
    importing,
    models,
    parallel,
    pretrained,
    tasks,
    training,
    unlearning,
)
from unlearnjax import data as data_lib
from unlearnjax.training.fit import Training
from unlearnjax.types import Data, Task, Unlearner, Variables

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "adam_without_momentum")
SCHEDULES = ("constant", "cosine", "warmup_cosine")
WARMUP = 20  # one step in so many raises the learning rate
# Fields that a compiled program can take as arguments: requests that differ in these share one.
TRACED = (
    "learning_rate",
    "alpha",
    "dampening",
    "gamma",
    "damping",
    "beta",
    "max_loss",
    "sigma",
    "radius",
    "retain_weight",
    "align_rate",
    "noise_decay",
    "strength",
    "eta",
    "anchor_weight",
    "replay_weight",
    "score_rate",
)


class Problem(NamedTuple):
    """A data set with a forget set in it.

    Attributes:
      dataset: as loaded.
      train, val, held_out: data of the originals, of model selection, and never trained on.
      forget, retain: positions in `train`.
      oracle: positions in `train` that the oracle trains on: the retain set, or, where the training
        data is corrupted, all that is clean.
      unseen, test: positions in `held_out`, of the forget set's and of the retain set's
        distribution.
      note: what is to be known of the sets, for the report.
      carried: collections that originals carry, such as a graph.
      edited: those of them that the request replaces, on which oracles train.
    """

    dataset: data_lib.Dataset
    train: Data
    val: Data
    held_out: Data
    forget: np.ndarray
    retain: np.ndarray
    oracle: np.ndarray
    unseen: np.ndarray
    test: np.ndarray
    note: str = ""
    carried: Mapping[str, Any] | None = None
    edited: Mapping[str, Any] | None = None


def dataset(config: ConfigDict, data_dir: str | None) -> data_lib.Dataset:
    """The data set, with the targets that the config asks for."""
    kind = kinds.of(config)
    if kind.load is not None:
        return kind.load(config, data_dir)
    loaded = _load(config.dataset, data_dir, config.source)
    if config.target is not None:
        loaded = data_lib.with_target(loaded, config.target)
    if config.superclasses:
        loaded = data_lib.with_superclasses(loaded, config.superclasses)
    numbers = loaded.train["targets"].dtype == np.float32
    if config.task in kinds.TASKS and numbers != (config.task == "regression"):
        raise ValueError(f"task must fit the targets of {config.dataset}, got {config.task!r}")
    return kind.view(loaded)


def problem(config: ConfigDict, data_dir: str | None) -> Problem:
    """Loads the data set and selects the forget set, from `config.seed` alone."""
    loaded = dataset(config, data_dir)
    if kinds.of(config).request is not None:
        return _of_graph(config, loaded, kinds.of(config).request(config, loaded))
    split_rng, forget_rng, size_rng = np.random.default_rng(config.seed).spawn(3)
    all_train = data_lib.subsample(loaded.train, config.num_train, size_rng)
    held_out = data_lib.subsample(loaded.test, config.num_test, size_rng)
    of_task = kinds.of(config)
    train, val, held_out = of_task.split(all_train, held_out, config.validation_fraction, split_rng)
    if config.held_out == "validation":  # hyper-parameters are found without the test set
        held_out = val
    elif config.held_out != "test":
        raise ValueError(f"held_out must be 'test' or 'validation', got {config.held_out!r}")
    kind, note = config.forget.partition(":")[0], ""
    if kind in data_lib.corruption.KINDS:
        corrupted = data_lib.corruption.corrupt(config.forget, train, held_out, forget_rng, loaded)
        train, held_out, chosen = corrupted.train, corrupted.held_out, corrupted.selection
        gone = corrupted.corrupt
        note = (
            f"{len(gone)} training examples are corrupted, of which the forget set is the part "
            "that is known; oracles train without any of them. Accuracy on the unseen examples is "
            "the corrected accuracy. "
        )
    else:
        chosen = of_task.select(config, loaded, train, held_out, forget_rng)
        gone = chosen.forget
    size = len(train["targets"])
    if of_task.apart:
        everyone = np.arange(len(held_out["targets"]))
        chosen = chosen._replace(unseen=everyone, test=everyone)
    retain = data_lib.forget_sets.complement(chosen.forget, size)
    oracle = data_lib.forget_sets.complement(gone, size)
    data_lib.validate_batch_size(config.train.batch_size, len(oracle), "config.train.batch_size")
    return Problem(
        loaded,
        train,
        val,
        held_out,
        chosen.forget,
        retain,
        oracle,
        chosen.unseen,
        chosen.test,
        note,
    )


def _of_graph(config: ConfigDict, loaded, asked) -> Problem:
    """The problem of a request that edits a graph."""
    checks.one_of(held_out=(config.held_out, ("test", "validation")))
    held_out = loaded.test if config.held_out == "test" else loaded.val
    everything = np.arange(len(held_out["targets"]))
    # Of pairs, what is forgotten are edges, and so are the unseen ones that it is held against.
    edges = np.flatnonzero(held_out["targets"] == 1)
    unseen = edges if held_out["inputs"].ndim == 2 else everything
    parts = loaded, loaded.train, loaded.val, held_out
    rows = asked.forget, asked.retain, asked.retain, unseen, everything
    carried, edited = {"graph": asked.graph}, {"graph": asked.edited}
    return Problem(*parts, *rows, asked.note, carried, edited)


_load = functools.cache(data_lib.load)  # the scenarios of one run share it


def subset(data: Data, indices: np.ndarray) -> Data:
    """The examples at `indices`."""
    return {name: value[indices] for name, value in data.items()}


def model(config: ConfigDict, dataset: data_lib.Dataset) -> nn.Module | Callable:
    """The model of `config.model` for the data set, see `models.by_name`."""
    dtypes = {"float32": None, "bfloat16": jnp.bfloat16}
    checks.one_of(**{"model.dtype": (config.model.dtype, sorted(dtypes))})
    dtype = dtypes[config.model.dtype]
    described = kinds.of(config).model(config, dataset, dtype)
    if described is not None:
        return described
    return models.by_name(
        config.model.name,
        num_classes=dataset.num_classes,
        dtype=dtype,
        **config.model.options.to_dict(),
    )


def task(config: ConfigDict, dataset: data_lib.Dataset) -> Task:
    """The task of `config.model` on the data set, augmented as `config.train` says.

    `config.task` is one of `kinds.TASKS` or the import path of what makes a task of a
    `tasks.Model`.
    """
    if not importing.is_path(config.task):
        checks.one_of(task=(config.task, tuple(kinds.TASKS)))
    module = model(config, dataset)
    adapt = tasks.from_linen if isinstance(module, nn.Module) else tasks.from_nnx
    augment = data_lib.pad_crop_flip
    if config.task in kinds.TASKS:
        kind = kinds.of(config)
        task, augment = kind.make(adapt(module, kind.arguments), config, dataset), kind.augment
    else:
        task = importing.imported(config.task)(adapt(module))
    return tasks.augmented(task, augment) if config.train.augment else task


def given(config: ConfigDict, dataset: data_lib.Dataset) -> dict[str, Any]:
    """Fields that constructors of unlearners have from the task, see `unlearner`."""
    return kinds.of(config).given(config, dataset)


def validate_request(config: ConfigDict, problem: Problem) -> None:
    """Raises `ValueError` for examples with which a method cannot do, see `kinds.Kind.validate`."""
    if config.task in kinds.TASKS:
        of_task = given(config, problem.dataset)
        unlearners = {
            name: unlearner(name, config, len(problem.retain), of_task) for name in config.methods
        }
        small = {name: value for name, value in problem.train.items() if name != "inputs"}
        parts = (subset(small, rows) for rows in (problem.forget, problem.retain))
        kinds.of(config).validate(config, problem.dataset, *parts, unlearners)


def start(config: ConfigDict, dataset: data_lib.Dataset) -> Variables | None:
    """The published weights that training starts from, where it has them; `None` if from none.

    What is not as it was published is printed.

    Raises:
      ValueError: if they cannot be read, or are not the model's.
    """
    if config.get("weights") is None:
        return None
    mesh, shardings = parallel.current(), None
    if mesh is not None:
        least = 2**12 if config.train.shard_parameters else sys.maxsize
        shardings = functools.partial(parallel.split_shardings, device_mesh=mesh, min_size=least)
    inputs = dataset.train["inputs"]
    batch = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    try:
        found = pretrained.load_model(config.weights, model(config, dataset), batch, shardings)
    except ImportError as error:
        raise ValueError(f"weights: {error}") from error
    if parallel.is_main_process():
        for note in found.notes:
            print(f"weights {config.weights}: {note}")
    return kinds.of(config).start(config, found.variables)


def optimizer(
    name: str, learning_rate: float | optax.Schedule, clip_norm: float | None = None
) -> optax.GradientTransformation:
    """An optax optimizer by name; 'momentum' is SGD with 0.9, and Adam without has b1 = 0.

    With `clip_norm` gradients whose norm is larger are scaled to it.
    """
    if clip_norm is not None:
        clip = optax.clip_by_global_norm(clip_norm)
        return optax.chain(clip, optimizer(name, learning_rate))
    checks.one_of(optimizer=(name, OPTIMIZERS))
    if not callable(learning_rate):
        checks.positive(learning_rate=learning_rate)
    if name == "momentum":
        return optax.sgd(learning_rate, momentum=0.9)
    if name == "adam_without_momentum":
        return optax.adam(learning_rate, b1=0.0)
    return getattr(optax, name)(learning_rate)


def training_optimizer(config: ConfigDict, num_examples: int) -> optax.GradientTransformation:
    """The optimizer of `config.train` with its schedule over a whole run.

    With `config.train.average` the model is an exponential average of its parameters, of that
    decay; `config.train.clip_norm` bounds the norm of gradients.
    """
    train = config.train
    checks.one_of(**{"train.schedule": (train.schedule, SCHEDULES)})
    rate, average = train.learning_rate, train.get("average")
    if train.schedule != "constant":
        checks.positive(learning_rate=rate)
        steps = train.num_epochs * data_lib.steps_per_epoch(num_examples, train.batch_size)
        if train.schedule == "cosine":
            rate = optax.cosine_decay_schedule(rate, steps)
        else:
            rate = optax.warmup_cosine_decay_schedule(0.0, rate, steps // WARMUP, steps)
    tx = optimizer(train.optimizer, rate, train.get("clip_norm"))
    return tx if average is None else training.averaged(tx, decay=average)


def recipe(config: ConfigDict, num_examples: int) -> Training:
    """How models are trained: by the training optimizer, or what `config.train.recipe` makes of it.

    That is the import path of a function of an optax transformation which gives another, such as
    `training.averaged` around it, or a function of a task that gives a `training.Recipe`.

    Raises:
      ValueError: for a path that names no such function.
    """
    tx, path = training_optimizer(config, num_examples), config.train.get("recipe")
    if path is None:
        return kinds.of(config).training(config, tx)
    if not importing.is_path(path):
        raise ValueError(f"train.recipe must be an import path, 'module:function', got {path!r}")
    make = importing.imported(path)
    made = make(tx) if callable(make) else None
    if not callable(made) and not isinstance(made, optax.GradientTransformation):
        raise ValueError(
            f"train.recipe must make of an optax transformation another one, or a function of a "
            f"task, got {path!r}, which makes {made!r}"
        )
    return made


def unlearner(
    name: str, config: ConfigDict, num_retain: int, values: Mapping[str, Any] | None = None
) -> Unlearner:
    """The constructor `unlearning.<name>` called with the fields of `config.unlearn.<name>`.

    Fields set on `config.unlearn` itself replace those of every method that has them, and `values`
    (which may be traced) replace both. `optimizer`, `learning_rate` and `clip_norm` become the
    constructor's `tx`; `moves` and `stays`, names joined by '+', are what the method is confined to
    of the parameters. The value `start` is what retraining starts from, and the fields of the task,
    see `kinds.Kind`, go to methods that have them; others have no use for these.

    Raises:
      ValueError: for a field that the method does not have, and what the constructor refuses.
    """
    shared = {
        field: value
        for field, value in config.unlearn.items()
        if not isinstance(value, ConfigDict) and value is not None
    }
    own = config.unlearn[name].to_dict()
    values = dict(values or {})
    published = values.pop("start", None)
    of_task = {field: values.pop(field) for field in kinds.of(config).fields if field in values}
    if name == "retrain":
        own = {
            "tx": recipe(config, num_retain),
            "num_epochs": config.train.num_epochs,
            "batch_size": min(config.train.batch_size, num_retain),  # as trainings pad theirs
            "start": published,
        }
        shared = {}
    own.update({field: value for field, value in shared.items() if field in own})
    own.update(values)
    if "learning_rate" in own:
        rate = own.pop("learning_rate")
        own["tx"] = optimizer(own.pop("optimizer"), rate, own.pop("clip_norm", None))
    path, moves, stays = (own.pop(key, None) for key in ("constructor", "moves", "stays"))
    path = path or name
    constructor = importing.imported(path) if importing.is_path(path) else getattr(unlearning, path)
    allowed = list(inspect.signature(constructor).parameters)
    own.update({field: value for field, value in of_task.items() if field in allowed})
    unknown = sorted(set(own) - set(allowed))
    if unknown:
        raise ValueError(
            f"unlearn.{name} has the fields {allowed}, got {unknown}{checks.near(unknown, allowed)}"
        )
    made = constructor(**own)
    names = lambda text: tuple(text.split("+")) if text else ()
    if moves or stays:
        made = unlearning.confined(made, names(moves) or None, names(stays))
    return unlearning.enforce(made)


def split_values(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields that a program is compiled for, and those that it takes as arguments."""
    static = {name: value for name, value in values.items() if name not in TRACED}
    return static, {name: value for name, value in values.items() if name in TRACED}


def grid(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations of the values of each field."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def validate_shared_fields(config: ConfigDict) -> None:
    """Raises `ValueError` for a shared field that none of the chosen methods has."""
    for field, value in config.unlearn.items():
        if isinstance(value, ConfigDict) or value is None:
            continue
        having = [name for name in config.methods if field in config.unlearn[name]]
        if not having:
            raise ValueError(f"unlearn.{field} is a field of none of the methods {config.methods}")
