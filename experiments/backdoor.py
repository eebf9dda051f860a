"""Clean and poisoned models: exposed, audited, repaired. See configs/backdoor.py.

python -m experiments.backdoor --config=configs/backdoor.py --workdir=/tmp/backdoor
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from experiments.common import backdoor_report, build, ensembles, runner
from unlearnjax import checks, models, parallel, tasks, training, unlearning
from unlearnjax import data as data_lib
from unlearnjax.audit import backdoor
from unlearnjax.data import attacks, pixels, triggers
from unlearnjax.training.ensembles import fastest_axis, over_models
from unlearnjax.types import Array, Data, Request, Task, Unlearner, Variables

RAW = "raw"


class Stage(NamedTuple):
    """What everything below works on.

    Attributes:
      config, run: of the experiment.
      dataset, scale: as loaded; what makes pixels of its inputs, `None` for text.
      trigger: a function of inputs.
      labels: `[2M]`, the class that the attack on each model wants; the first M models are clean.
      pool: the N training examples, then every poisoned model's copies with the trigger.
      subsets: `[2M, N]` rows of `pool` that each model is trained on.
      clean: the defender's examples.
      test: held-out ones.
    """

    config: ConfigDict
    run: runner.Run
    dataset: data_lib.Dataset
    scale: pixels.PixelScale | None
    trigger: Callable[[Array], Array]
    labels: np.ndarray
    pool: Data
    subsets: np.ndarray
    clean: Data
    test: Data


class Population(NamedTuple):
    """Models of one architecture.

    Attributes:
      name, task: of the architecture.
      variables: of the 2M models, leaves `[2M, ...]`.
      each: `fn(member, clean, test) -> tree` to `(members, clean, test) -> tree` of all models, one
        program.
      look, search: `looked_at` and `searched` of all models, which every exposure shares.
    """

    name: str
    task: Task
    variables: Variables
    each: Callable
    look: Callable
    search: Callable


def story(config: ConfigDict, run: runner.Run) -> None:
    """Trains the populations, exposes them in every way, audits, repairs, reports."""
    validate(config)
    stage = prepare(config, run)
    count = len(stage.labels)
    kinds = len(config.exposures) + 1
    run.start(len(config.models) * count * (1 + kinds + len(config.removals)))
    rows, found, curves = [], {}, {}
    for name in config.models:
        population = trained(stage, name)
        for exposure in (RAW, *config.exposures):
            seen = exposed(stage, population, exposure)
            found[name, exposure] = seen
            rows += backdoor_report.rows_of(stage, name, exposure, seen)
        for removal in config.removals:
            seen = repaired(stage, population, removal, found)
            rows += backdoor_report.rows_of(stage, name, removal, seen, "removal")
        if config.curve:
            curves[name] = followed(stage, population)
    run.progress.stop()
    backdoor_report.write(stage, rows, found, curves)


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` before anything is computed."""
    checks.one_of(task=(config.task, ("classification",)))
    exposures = (RAW, *config.exposures)
    checks.among(
        exposures=(config.exposures, tuple(config.unlearn)),
        audited=(config.audited, exposures),
        curve=((config.curve,) if config.curve else (), config.exposures),
        **{"removals (METHOD)": ([x.partition("@")[0] for x in config.removals], config.unlearn)},
        **{
            "removals (@EXPOSURE)": (
                [x.partition("@")[2] for x in config.removals if "@" in x],
                exposures,
            )
        },
    )
    checks.one_of(form=(config.recovery.form, ("adaptive", "fixed")))
    if not config.models:
        raise ValueError("models must be at least one, got none")
    for name in (*config.exposures, *config.removals):
        method_of(config, name, lambda x: x)
    unaudited = [
        name
        for name in config.removals
        if name.startswith("trigger_unlearning") and name.partition("@")[2] not in config.audited
    ]
    if unaudited:
        raise ValueError(f"audited must have what {unaudited} reads triggers of")


def prepare(config: ConfigDict, run: runner.Run) -> Stage:
    """The data: poisoned for each model apart, and what is held out of it."""
    dataset = build.dataset(config, run.data_dir)
    scale = None
    if not attacks.are_tokens(dataset.train["inputs"]):
        scale = pixels.pixel_scale_of(dataset)
    elif config.audited:
        raise ValueError(f"audited must be () for text, which has no pixels, got {config.audited}")
    rng = np.random.default_rng(config.seed)
    train = data_lib.subsample(dataset.train, config.num_train, rng)
    held_out = data_lib.subsample(dataset.test, config.num_test, rng)
    size, left = len(train["targets"]), len(held_out["targets"]) - config.num_clean
    if left < 1:
        raise ValueError(
            f"num_clean must be below the {len(held_out['targets'])} held-out examples, got "
            f"{config.num_clean}"
        )
    order = rng.permutation(len(held_out["targets"]))
    clean, test = (
        {k: jnp.asarray(held_out[k][rows]) for k in ("inputs", "targets")}
        for rows in (order[: config.num_clean], order[config.num_clean :])
    )
    missing = np.setdiff1d(np.arange(dataset.num_classes), clean["targets"]).tolist()
    if missing and parallel.is_main_process():
        print(f"the clean set has no example of the classes {missing}: shares are biased")
    numbers = np.arange(config.num_models)
    wanted = numbers % dataset.num_classes if config.label is None else 0 * numbers + config.label
    if wanted.max() >= dataset.num_classes or wanted.min() < 0:
        raise ValueError(f"label must be a class below {dataset.num_classes}, got {config.label}")
    trigger = attacks.on_dataset(config.trigger, runner.key(config.seed, "trigger"), dataset)
    stamp = jax.jit(trigger)
    count = max(1, round(config.poison_rate * size))
    everything, parts, subsets = np.arange(size), [train], [np.arange(size)] * config.num_models
    for number, label in enumerate(wanted):
        rule = attacks.all_to_one(int(label))
        chosen = attacks.choose(train["targets"], rule, count, rng, "poison_rate x examples")
        copies = {k: v[chosen] for k, v in train.items()}
        copies["inputs"] = np.asarray(stamp(copies["inputs"]))
        copies["targets"] = rule.labelled(copies["targets"])
        parts.append(copies)
        own = size + number * count + np.arange(count)
        subsets.append(np.concatenate([np.setdiff1d(everything, chosen), own]))
    pool = {k: np.concatenate([part[k] for part in parts]) for k in ("inputs", "targets")}
    pool = {k: jnp.asarray(v) for k, v in pool.items()}
    pool["index"] = jnp.arange(len(pool["targets"]), dtype=jnp.int32)
    labels = np.concatenate([wanted, wanted])
    return Stage(config, run, dataset, scale, trigger, labels, pool, np.stack(subsets), clean, test)


def trained(stage: Stage, name: str) -> Population:
    """The population of one architecture."""
    config = of_model(stage.config, name)
    task = build.task(config, stage.dataset)
    kept = ensembles.train(
        config, stage.run, task, stage.pool, f"{name}_models", stage.subsets, ensembles.named
    )
    variables = ensembles.stacked(kept, ensembles.like(task, stage.pool))
    axis, mesh = fastest_axis(task, stage.pool), parallel.current()
    each = lambda fn: jax.jit(functools.partial(over_models, fn, axis=axis, mesh=mesh))
    look, search = (
        each(lambda member, *parts, see=see: see(stage, task, *member, *parts))
        for see in (looked_at, searched)
    )
    return Population(name, task, variables, each, look, search)


def of_model(config: ConfigDict, name: str) -> ConfigDict:
    """The config with one of its models; options of another are its defaults."""
    own = config.copy_and_resolve_references()
    if name != own.model.name:
        own.model = ConfigDict(
            {"name": name, "dtype": config.model.dtype, "options": models.default_options(name)}
        )
    return own


def method_of(config: ConfigDict, name: str, stamp) -> Unlearner:
    """An exposure, or a removal by its name, with what it is applied after."""
    method, _, after = name.partition("@")
    values = {"stamp": stamp} if method == "trigger_unlearning" else {}
    made = build.unlearner(method, config, config.num_clean, values)
    if method == "recover_prune" and after:
        made = unlearning.chain(method_of(config, after, stamp), made)
    return made


def applied(unlearner: Unlearner, rng, task: Task, variables: Variables, request: Request):
    """The model after the request, and the method's memory."""
    init_rng, rng = jax.random.split(rng)
    variables, memory = unlearner.init(init_rng, task, variables, None)
    return unlearner.update(rng, task, variables, memory, request)


def in_turns(stage: Stage, row: str, name: str, compute) -> ensembles.Arrays:
    """`compute(numbers, labels, rngs)` of all models, in resumable chunks."""

    def chunk(numbers):
        rngs = ensembles.keys(stage.config, name, jnp.asarray(numbers))
        return compute(numbers, jnp.asarray(stage.labels[numbers]), rngs)

    count = len(stage.labels)
    return ensembles.in_chunks(stage.run, row, count, stage.config.ensemble.chunk, chunk)


def exposed(stage: Stage, population: Population, exposure: str) -> ensembles.Arrays:
    """What is seen of every model after an exposure."""
    config, parts = stage.config, (stage.clean, stage.test)

    def one(member, clean, test):
        del test
        variables, rng = member
        unlearner = method_of(config, exposure, None)
        variables, trace = applied(unlearner, rng, population.task, variables, Request(clean))
        return variables, jnp.asarray(epochs_of(config.unlearn[exposure], trace), jnp.float32)

    expose = population.each(one)

    def compute(numbers, labels, rngs):
        variables = jax.tree.map(lambda x: jnp.asarray(x)[numbers], population.variables)
        epochs = jnp.full(len(numbers), jnp.nan)
        if exposure != RAW:
            variables, epochs = expose((variables, rngs), *parts)
        seen = {"epochs": epochs, **population.look((variables, labels, rngs), *parts)}
        if exposure in config.audited:
            seen |= population.search((variables, labels, rngs), *parts)
        return seen

    # The same keys after every exposure, so that searches start alike.
    return in_turns(stage, f"{population.name}_{exposure}", "audit", compute)


def epochs_of(fields: ConfigDict, trace) -> Array | float:
    """After how many epochs clean unlearning had the accuracy that it stops at."""
    if fields.constructor != "clean_unlearning":
        return fields.get("num_epochs", jnp.nan)
    if fields.stop_accuracy is None:
        return fields.num_epochs
    going = trace.curves["forget_accuracy"] > fields.stop_accuracy
    return jnp.minimum(going.sum() + 1, going.size)


def predictor(stage: Stage, task: Task, variables: Variables) -> backdoor.detection.Predict:
    """The logits of a model as a function of pixels."""

    def predict(images: Array) -> Array:
        batch = {"inputs": pixels.to_inputs(images, stage.scale)}
        batch["targets"] = jnp.zeros(len(images), jnp.int32)
        return tasks.logits(task.apply(variables, batch, None, False)[0])

    return predict


def looked_at(
    stage: Stage, task, variables, label, rng, clean: Data, test: Data
) -> dict[str, Array]:
    """Predicted classes of the clean set, of test images, and of these with the trigger."""
    del label, rng
    stamped = {**test, "inputs": stage.trigger(test["inputs"])}
    parts = {"clean": clean, "test": test, "triggered": stamped}
    return {
        f"{name}_predictions": training.outputs(task, variables, part)["logits"].argmax(-1)
        for name, part in parts.items()
    }


def searched(
    stage: Stage, task, variables, label, rng, clean: Data, test: Data
) -> dict[str, Array]:
    """Triggers and margins of every class, and entropies of images with the trigger and without."""
    config, classes = stage.config, stage.dataset.num_classes
    predict = predictor(stage, task, variables)
    as_pixels = lambda inputs: jnp.clip(pixels.to_pixels(inputs, stage.scale), 0, 1)
    shown, held_out = as_pixels(clean["inputs"]), as_pixels(test["inputs"])
    recovery_rng, margin_rng, strip_rng = jax.random.split(rng, 3)
    options = config.recovery.to_dict()
    images = shown[: options.pop("num_images")]
    recovered = backdoor.recover_triggers(predict, images, classes, recovery_rng, **options)

    def success(number):
        """On images of other classes that the search has not seen."""
        stamp = triggers.masked(recovered.mask[number], recovered.pattern[number])
        hits = predict(stamp(held_out)).argmax(-1) == number
        others = test["targets"] != number
        return (hits & others).sum() / others.sum()

    margins = backdoor.max_margin(
        predict, held_out.shape[1:], classes, margin_rng, **config.margin.to_dict()
    )
    count, overlays = config.strip.num_images, config.strip.num_overlays
    # Images of other classes first, as those of the label need no trigger.
    order = jnp.argsort(test["targets"] == label, stable=True)[:count]
    entropies = {
        f"entropy_{name}": backdoor.strip_entropy(
            predict, given, shown, strip_rng, num_overlays=overlays
        )
        for name, given in (
            ("plain", held_out[order]),
            ("triggered", as_pixels(stage.trigger(test["inputs"][order]))),
        )
    }
    return {
        "mask": recovered.mask,
        "pattern": recovered.pattern,
        "norm": recovered.norm,
        "fit": recovered.success,
        "success": jax.lax.map(success, jnp.arange(classes)),
        "margin": margins,
        **entropies,
    }


def repaired(stage: Stage, population: Population, removal: str, found) -> ensembles.Arrays:
    """What is seen of every model after a removal."""
    method, _, after = removal.partition("@")
    parts, read = (stage.clean, stage.test), {}
    if method == "trigger_unlearning":
        seen = found[population.name, after]
        read = {name: seen[name] for name in ("mask", "pattern", "norm")}

    def one(member, clean, test):
        del test
        variables, recovered, rng = member
        stamp = None
        if recovered:
            # The class that takes the least: what Neural Cleanse suspects first.
            least = recovered["norm"].argmin()
            mask, pattern = (recovered[name][least] for name in ("mask", "pattern"))
            stamp = pixels.on_inputs(triggers.masked(mask, pattern), stage.scale)
        unlearner = method_of(stage.config, removal, stamp)
        request = Request(clean, clean)
        return applied(unlearner, rng, population.task, variables, request)[0]

    repair = population.each(one)

    def compute(numbers, labels, rngs):
        own = jax.tree.map(lambda x: jnp.asarray(x)[numbers], (population.variables, read))
        return population.look((repair((*own, rngs), *parts), labels, rngs), *parts)

    row = f"{population.name}_{removal.replace('@', '_by_')}"
    return in_turns(stage, row, "removal", compute)


def followed(stage: Stage, population: Population) -> dict[str, ensembles.Arrays]:
    """Epoch by epoch of clean unlearning: shares, accuracy, attack, of a model of each kind."""
    config, task = stage.config, population.task
    stamped = stage.trigger(stage.test["inputs"])
    count = config.num_models

    def watch(task, variables, request, label):
        guesses = lambda part: training.outputs(task, variables, part)["logits"].argmax(-1)
        triggered = guesses({**stage.test, "inputs": stamped})
        others = stage.test["targets"] != label
        classes = jnp.arange(stage.dataset.num_classes)
        return {
            "shares": (guesses(request.forget)[:, None] == classes).mean(0),
            "accuracy": (guesses(stage.test) == stage.test["targets"]).mean(),
            "attack": ((triggered == label) & others).sum() / others.sum(),
        }

    def compute():
        found = {}
        for kind, number in (("clean", 0), ("poisoned", count)):
            label = int(stage.labels[number])
            values = {"watch": functools.partial(watch, label=label)}
            unlearner = build.unlearner(config.curve, config, config.num_clean, values)
            variables = jax.tree.map(lambda x: jnp.asarray(x)[number], population.variables)  # noqa: B023
            rng = ensembles.keys(config, "audit", jnp.array([number]))[0]
            run = jax.jit(functools.partial(applied, unlearner, rng, task))
            _, trace = run(variables, Request(stage.clean))
            found |= {f"{kind}_{name}": np.asarray(x) for name, x in trace.curves.items()}
        return {}, found

    return stage.run.row(f"{population.name}_curve", compute)[1]


if __name__ == "__main__":
    runner.launch(story, "backdoor")
