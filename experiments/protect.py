"""Protect images from being learned, and try to learn from them. See configs/protection.py.

python -m experiments.protect --config=configs/protection.py --workdir=/tmp/protect
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import protection as own_config
from experiments.common import build, ensembles, hackers, measure, protect_report, runner
from unlearnjax import checks, parallel, protection, training
from unlearnjax import data as data_lib
from unlearnjax.data import pixels
from unlearnjax.protection import Protection
from unlearnjax.types import Array, Data, Task, Variables

# Clean images, and those of them alone that stay unprotected at a share.
CLEAN, UNPROTECTED = "clean", "unprotected"
SURROGATE = "surrogate"
# Of a protection's memory in its file, where that is one array.
KEY = "key"
# Whether the hacker's labels are the groups.
OF_GROUPS = {"same": False, "coarser": True, "finer": False}


class Cell(NamedTuple):
    """A row of the table, but for the seed.

    Attributes:
      protection: `CLEAN`, `UNPROTECTED`, one of `configs.protection.PROTECTIONS`, or 'cuda:BLUR'.
      hacker, labels: of the same file.
      share: of the training images that are protected.
    """

    protection: str
    hacker: str = "plain"
    labels: str = "same"
    share: float = 1.0

    def name(self, seed: int) -> str:
        """Of its file."""
        return runner.folder("_".join(map(str, (*self, seed))))


class Stage(NamedTuple):
    """What everything below works on.

    Attributes:
      config, run: of the experiment.
      datasets: by whether labels are the groups: the data set with them.
      scale: of its inputs to pixels.
      train, test, other: `inputs` as pixels in [0, 1], `targets`, and `coarse`, the groups; other
        images are neither protected nor tested on.
    """

    config: ConfigDict
    run: runner.Run
    datasets: dict[bool, data_lib.Dataset]
    scale: pixels.PixelScale
    train: Data
    test: Data
    other: Data


class Published(NamedTuple):
    """Images as they are published, pixels in [0, 1]."""

    train: Array
    test: Array


def story(config: ConfigDict, run: runner.Run) -> None:
    """What images are changed by; what is learned from them, by every hacker."""
    validate(config)
    stage = load(config, run)
    table = cells(config)
    published = sorted({of_cell(cell) for cell in table} - {None})
    for name, coarse in published:  # what they refuse, before anything is computed
        protector(stage, name, coarse, None)
    for hacker in config.hackers:
        recipe_of(stage, hacker, False, len(stage.train["targets"]))
    needed = {OF_GROUPS[c.labels] for c in table if c.hacker == hackers.TRANSFER}
    needed |= {coarse for name, coarse in published if "clusters" in name}
    run.start((len(table) + len(published)) * config.num_seeds + len(needed))
    surrogates = {coarse: surrogate(stage, coarse) for coarse in sorted(needed)}
    trainers = functools.cache(functools.partial(trainer, stage))
    rows, costs, shown = [], [], {}
    for seed in range(config.num_seeds):
        images = {None: Published(stage.train["inputs"], stage.test["inputs"])}
        for name, coarse in published:
            cost, images[name, coarse] = protect(stage, surrogates, name, coarse, seed)
            costs.append(cost)
        shown = shown or examples(stage, images)
        for cell in table:
            start = None
            if cell.hacker == hackers.TRANSFER:
                start = surrogates[OF_GROUPS[cell.labels]]
            name, own = cell.name(seed), images[of_cell(cell)]
            old = run.has_row(name)
            compute = functools.partial(learned, stage, trainers, cell, own, seed, start)
            rows.append(run.row(name, compute)[0])
            run.advance(f"{cell.protection}, {cell.hacker}", resumed=old)
    run.progress.stop()
    protect_report.write(config, run, rows, costs, shown, stage.datasets[False].class_names)


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` before anything is loaded."""
    checks.among(
        protections=(config.protections, own_config.PROTECTIONS),
        hackers=(config.hackers, hackers.HACKERS),
        labels=(config.labels, own_config.LABELS),
        attacked=(config.attacked, own_config.PROTECTIONS),
    )
    if config.task != "classification":
        raise ValueError(f"task must be 'classification', got {config.task!r}")
    if config.train.recipe is not None or config.train.augment:
        raise ValueError("train.recipe and train.augment must be unset: hackers train their way")
    if not config.coarse and set(config.labels) != {"same"}:
        raise ValueError(f"labels {config.labels} need groups of the classes, coarse is empty")


def load(config: ConfigDict, run: runner.Run) -> Stage:
    """Images to protect, to test on, and others, from `config.seed` alone."""
    classes = build.dataset(config, run.data_dir)
    scale = pixels.pixel_scale_of(classes)
    datasets = {False: classes}
    if config.coarse:
        datasets[True] = data_lib.with_superclasses(classes, config.coarse)
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(classes.train["targets"]))
    left = len(order) - config.num_surrogate
    number = left if config.num_train is None else config.num_train
    if not 1 <= number <= left:
        raise ValueError(
            f"num_train must lie in [1, {left}], what num_surrogate={config.num_surrogate} leaves, "
            f"got {number}"
        )
    tests = rng.permutation(len(classes.test["targets"]))[: config.num_test]
    rows = {
        "train": np.sort(order[config.num_surrogate :][:number]),
        "other": np.sort(order[: config.num_surrogate]),
        "test": np.sort(tests),
    }

    def part(name):
        source = "test" if name == "test" else "train"
        chosen = rows[name]
        of = lambda dataset: getattr(dataset, source)["targets"][chosen]
        images = pixels.to_pixels(getattr(classes, source)["inputs"][chosen], scale)
        return measure.place(
            {
                # Test images may lie beyond what the training set has.
                "inputs": np.asarray(jnp.clip(images, 0, 1)),
                "targets": of(classes),
                "coarse": of(datasets.get(True, classes)),
                "index": np.arange(len(chosen), dtype=np.int32),
            }
        )

    data_lib.validate_batch_size(config.train.batch_size, number, "config.train.batch_size")
    return Stage(config, run, datasets, scale, *map(part, ("train", "test", "other")))


def cells(config: ConfigDict) -> list[Cell]:
    """The table: every protection by every labelling; hackers; shares and strengths of `cuda`."""
    protections = (CLEAN, *config.protections)
    found = [Cell(name, labels=labels) for labels in config.labels for name in protections]
    hackers = [name for name in config.hackers if name != "plain"]
    attacked = (CLEAN, *(name for name in config.attacked if name in config.protections))
    found += [Cell(name, hacker) for hacker in hackers for name in attacked]
    if "cuda" in config.protections:
        found += [Cell(x, share=share) for share in config.shares for x in ("cuda", UNPROTECTED)]
        found += [Cell(f"cuda:{blur:g}") for blur in config.blurs if blur != config.cuda.blur]
    return list(dict.fromkeys(found))


def protector(stage: Stage, name: str, coarse: bool, surrogate: Variables | None) -> Protection:
    """The protection of that name, whose labels, if it has any, are the groups or not."""
    config, (name, _, blur) = stage.config, name.partition(":")
    num_classes = stage.datasets[coarse].num_classes
    if name in ("cuda", "one_filter"):
        fields = config.cuda.to_dict() | {"one_filter": name == "one_filter"}
        fields |= {"blur": float(blur)} if blur else {}
        return protection.convolutional(num_classes, **fields)
    epsilon = config.noise.epsilon
    if name == "random_classes":
        return protection.class_noise(num_classes, epsilon)
    fields = config.clusters.to_dict()
    tx = build.optimizer(fields.pop("optimizer"), fields.pop("learning_rate"))
    fields |= {"mode": "random"} if name == "random_clusters" else {}
    task = training.of_pixels(task_of(stage, coarse), stage.scale)
    return protection.clusters(task, surrogate, epsilon=epsilon, tx=tx, **fields)


def of_cell(cell: Cell) -> tuple[str, bool] | None:
    """The protection of a cell, and whether its labels are the groups; `None` of clean images."""
    if cell.protection in (CLEAN, UNPROTECTED):
        return None
    return cell.protection, cell.labels == "finer"


def protect(
    stage: Stage, surrogates: dict[bool, Variables], name: str, coarse: bool, seed: int
) -> tuple[dict, Published]:
    """The images as the protector publishes them, all of them protected, and what that costs."""
    method = protector(stage, name, coarse, surrogates.get(coarse))
    own = "coarse" if coarse else "targets"
    train, test = (
        {"inputs": part["inputs"], "targets": part[own]} for part in (stage.train, stage.test)
    )

    def compute():
        begin = time.perf_counter()
        # `one_filter` has the key, and so the filter of the first class, of `cuda`.
        memory = method.fit(runner.key(stage.config.seed, "protection", seed), train)
        kept = memory._asdict() if isinstance(memory, protection.ClusterNoise) else {KEY: memory}
        costs = protection.budget(train["inputs"], method.apply(memory, train)["inputs"])
        row = {
            "protection": name,
            "coarse": coarse,
            "seed": seed,
            **{name: float(value) for name, value in costs.items()},
            "seconds": time.perf_counter() - begin,
        }
        return row, parallel.fetch(kept)

    file = runner.folder(f"protected_{name}_{'groups' if coarse else 'classes'}_{seed}")
    old = stage.run.has_row(file)
    row, kept = stage.run.row(file, compute)
    stage.run.advance(f"protecting: {name}", resumed=old)
    kept = measure.on_devices(kept)
    memory = kept[KEY] if KEY in kept else protection.ClusterNoise(**kept)
    return row, Published(*(method.apply(memory, part)["inputs"] for part in (train, test)))


def learned(
    stage: Stage, trainers, cell: Cell, images: Published, seed: int, start: Variables | None
):
    """The row of a cell: what a model knows that was trained on it."""
    begin = time.perf_counter()
    config, coarse = stage.config, OF_GROUPS[cell.labels]
    size = len(stage.train["targets"])
    # Of one seed, the shares lie in one another.
    order = np.random.default_rng([config.seed, seed]).permutation(size)
    count, rows, inputs = round(cell.share * size), np.arange(size), images.train
    if cell.protection == UNPROTECTED:
        rows = np.sort(order[count:])
    elif cell.share < 1:
        chosen = np.isin(np.arange(size), order[:count])[:, None, None, None]
        inputs = jnp.where(chosen, inputs, stage.train["inputs"])
    named = "coarse" if coarse else "targets"

    def data(images, targets):
        index = jnp.arange(len(targets))
        inputs = pixels.to_inputs(images, stage.scale)
        return measure.on_devices({"inputs": inputs, "targets": targets, "index": index})

    tests = {"clean": stage.test["inputs"], "protected": images.test}
    tests = {name: data(part, stage.test[named]) for name, part in tests.items()}
    fit = trainers(cell.hacker, coarse, len(rows))
    # Of one seed all start alike, and see the examples in the same order.
    key = runner.key(config.seed, "hacker", seed)
    found = parallel.fetch(fit(key, data(inputs[rows], stage.train[named][rows]), tests, start))
    if not np.isfinite(found.pop("loss")):
        raise FloatingPointError(f"{cell}: training is not finite; lower train.learning_rate")
    counts = np.bincount(np.asarray(stage.test[named]))
    row = {
        **cell._asdict(),
        "seed": seed,
        **{name: float(value) for name, value in found.items()},
        "chance": float(counts.max() / counts.sum()),
        "seconds": time.perf_counter() - begin,
    }
    return row, {}


def trainer(stage: Stage, hacker: str, coarse: bool, size: int):
    """`(key, data, tests, start) -> numbers` of a model that the hacker trains, compiled."""
    task = task_of(stage, coarse)
    recipe = recipe_of(stage, hacker, coarse, size)
    train = stage.config.train

    @jax.jit
    def fit(key: Array, data: Data, tests: dict[str, Data], start: Variables | None):
        options = {"num_epochs": train.num_epochs, "batch_size": min(train.batch_size, size)}
        variables, history = training.fit(
            recipe, data, jnp.arange(size), key, start=start, **options
        )
        of = lambda part: training.evaluate(task, variables, part)["accuracy"].mean()
        accuracies = {name: of(part) for name, part in (tests | {"train": data}).items()}
        return {
            **{f"{name}_accuracy": value for name, value in accuracies.items()},
            "loss": history["loss"][-1],
        }

    return fit


def task_of(stage: Stage, coarse: bool) -> Task:
    """The classes, or their groups."""
    return build.task(stage.config, stage.datasets[coarse])


def recipe_of(stage: Stage, hacker: str, coarse: bool, size: int) -> training.Recipe:
    """How the hacker trains on so many images."""
    dataset = stage.datasets[coarse]
    return hackers.recipe(hacker, stage.config, task_of(stage, coarse), dataset, stage.scale, size)


def surrogate(stage: Stage, coarse: bool) -> Variables:
    """A model of the other images, which are clean; trained once."""
    size = len(stage.other["targets"])
    task, recipe = task_of(stage, coarse), recipe_of(stage, "plain", coarse, size)
    targets = stage.other["coarse" if coarse else "targets"]
    data = {
        "inputs": pixels.to_inputs(stage.other["inputs"], stage.scale),
        "targets": targets,
        "index": stage.other["index"],
    }
    train = stage.config.train

    def compute():
        options = {"num_epochs": train.num_epochs, "batch_size": min(train.batch_size, size)}
        fit = jax.jit(
            lambda key, data: training.fit(recipe, data, jnp.arange(size), key, **options)
        )
        variables, _ = fit(runner.key(stage.config.seed, SURROGATE), measure.on_devices(data))
        return {"examples": size}, parallel.fetch(ensembles.named(variables))

    name = f"{SURROGATE}_{'coarse' if coarse else 'classes'}"
    old = stage.run.has_row(name)
    kept = stage.run.row(name, compute)[1]
    stage.run.advance(name, resumed=old)
    return measure.on_devices(ensembles.stacked(kept, ensembles.like(task, data)))


def examples(stage: Stage, images: dict) -> dict[str, np.ndarray]:
    """`[C, H, W, K]`: a training image of every class, clean and as it is published."""
    targets = np.asarray(stage.train["targets"])
    first = [int(np.flatnonzero(targets == c)[0]) for c in np.unique(targets)]
    return {
        CLEAN if key is None else key[0]: np.asarray(own.train[jnp.asarray(first)])
        for key, own in images.items()
        if key is None or not key[1]
    }


if __name__ == "__main__":
    runner.launch(story, "protection")
