"""Search the forget sets that are hardest, compare with random ones. See configs/worst_case.py.

python -m experiments.worst_case --config=configs/worst_case.py --workdir=/tmp/worst_case
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.worst_case import RANKED
from experiments.common import build, ensembles, populations, runner, worst_case_report
from unlearnjax import audit, checks, parallel, selection, training
from unlearnjax import data as data_lib
from unlearnjax.report import table
from unlearnjax.training.ensembles import fastest_axis, over_models, random_subsets, subset_masks
from unlearnjax.types import Array, Data, Request, Task, Variables

# What is looked at of every example, and what says whether the forget set is known.
OUTPUTS = {
    "classification": ("loss", "accuracy", "confidence"),
    "regression": ("loss", "absolute_error"),
}
KNOWN = {"classification": "forget_accuracy", "regression": "forget_error"}


class Stage(NamedTuple):
    """What everything below works on.

    Attributes:
      config, run, task: of the experiment.
      pool, size: training and test examples, and how many are of the former.
      groups: `[N]`, what is selected as a whole; `number` of them are.
      originals: a model per seed, leaves `[S, ...]`.
      before: their outputs, `{'loss': [S, pool], ...}`.
      unseen_loss: `[N]`, mean loss of models that were not trained on the example.
    """

    config: ConfigDict
    run: runner.Run
    task: Task
    pool: Data
    size: int
    groups: np.ndarray
    number: int
    originals: Variables
    before: ensembles.Arrays
    unseen_loss: np.ndarray


def story(config: ConfigDict, run: runner.Run) -> None:
    """Originals, searches; oracles and every method on every set; KLoM of some."""
    loaded = ensembles.load(config, run.data_dir)
    groups = grouped(config, loaded)
    number = selected(config, int(groups.max()) + 1)
    validate(config)
    task, size, seeds = build.task(config, loaded.dataset), loaded.size, config.num_seeds
    fewest = min(size // 2, size - int(np.sort(np.bincount(groups))[-number:].sum()))
    data_lib.validate_batch_size(config.train.batch_size, fewest, "config.train.batch_size")
    sets = len(names(config))
    run.start(
        seeds * (1 + len(config.searches) * 2 + len(config.easiest))
        + config.num_references
        + sets * seeds * (1 + len(config.methods))
        + bool(config.num_originals)
        * (config.num_originals + len(config.klom_sets) * populations.num_models(config))
    )
    fit = functools.partial(ensembles.train, config, run, task, loaded.data)
    outputs = functools.partial(evaluated, task, OUTPUTS[config.task])
    whole = ensembles.whole(size, seeds)
    kept = fit("original", whole, ensembles.with_models(outputs))
    originals = ensembles.stacked(kept, ensembles.like(task, loaded.data))
    halves = random_subsets(runner.key(config.seed, "halves"), config.num_references, size)
    losses = fit(
        "reference", np.asarray(halves), lambda v, pool: {"loss": outputs(v, pool)["loss"]}
    )
    out = ~np.asarray(subset_masks(halves, size))
    unseen = (losses["loss"][:, :size] * out).sum(0) / np.maximum(out.sum(0), 1)
    stage = Stage(config, run, task, loaded.data, size, groups, number, originals, kept, unseen)
    chosen = choose(stage, loaded.rng)
    examples = {
        name: [np.flatnonzero(np.isin(groups, np.flatnonzero(row))) for row in rows]
        for name, rows in chosen.items()
    }
    rows = compare(stage, examples)
    kloms = []
    if config.num_originals:
        first = {name: examples[name][0] for name in config.klom_sets}
        kloms = populations_of(stage, fit, first)
    run.progress.stop()
    worst_case_report.write(stage, rows, kloms, chosen, examples)


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` before anything is computed."""
    known = tuple(selection.lower.BY_NAME)
    checks.among(
        searches=(config.searches, known),
        easiest=(config.easiest, known),
        ranked=(config.ranked, RANKED),
        moved=(config.moved, tuple(found_names(config))),
        klom_sets=(config.klom_sets, tuple(names(config))),
    )
    if config.task != "classification" and (config.num_originals or "typical" in config.ranked):
        raise ValueError(
            "KLoM (num_originals) and the ranking 'typical' are for classification, got "
            f"task={config.task!r}"
        )
    if not config.methods:
        raise ValueError("methods must be at least one, got none")
    checks.at_least(2, num_seeds=config.num_seeds)
    checks.one_of(mode=(config.search.mode, selection.MODES))
    if config.num_originals:
        checks.at_least(4, num_originals=config.num_originals)
    for name in {*config.searches, *config.easiest}:
        selection.lower.BY_NAME[name](**config.lower.get(name, {}))
    build.optimizer("sgd", config.search.lower_learning_rate)
    for method in config.methods:
        build.unlearner(method, config, config.train.batch_size)


def grouped(config: ConfigDict, loaded: ensembles.Pool) -> np.ndarray:
    """`[N]`: the number of the group of every training example."""
    if config.by == "example":
        return np.arange(loaded.size)
    field = "targets" if config.by == "class" else config.by
    if field not in loaded.train:
        raise ValueError(
            f"by must be 'example', 'class' or one of {sorted(loaded.train)}, got {config.by!r}"
        )
    return np.unique(loaded.train[field], return_inverse=True)[1]


def selected(config: ConfigDict, number: int) -> int:
    """How many groups: `size` as it is, or as a share."""
    size = round(config.size * number) if config.size < 1 else config.size
    if size != int(size) or not 1 <= size < number:
        raise ValueError(
            f"size must be a share, or a number below that of the groups ({number}), got "
            f"{config.size}"
        )
    return int(size)


def names(config: ConfigDict) -> list[str]:
    """The sets, in the order of the tables."""
    moved = (f"moved:{name}" for name in config.moved)
    return ["random", *found_names(config), *moved, *config.ranked]


def found_names(config: ConfigDict) -> list[str]:
    """The sets that are searched."""
    kinds = {"worst": config.searches, "gap": config.searches, "easiest": config.easiest}
    return [f"{kind}:{name}" for kind, names in kinds.items() for name in names]


def evaluated(task: Task, wanted, variables: Variables, pool: Data) -> dict[str, Array]:
    """What the audits need of every example."""
    outputs = training.evaluate(task, variables, pool)
    return {name: outputs[name] for name in wanted}


def choose(stage: Stage, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Which groups are in each set, `[S, G]`, 1 or 0."""
    config, seeds = stage.config, stage.config.num_seeds
    count = int(stage.groups.max()) + 1
    random = np.zeros((seeds, count))
    for row in random:
        row[rng.choice(count, stage.number, replace=False)] = 1
    found = {"random": random}
    for kind, direction, wanted, reference in (
        ("worst", "worst", config.searches, None),
        ("gap", "worst", config.searches, jnp.asarray(stage.unseen_loss)),
        ("easiest", "easiest", config.easiest, None),
    ):
        for name in wanted:
            found[f"{kind}:{name}"] = search(stage, name, kind, direction, reference)
    for name in config.moved:
        found[f"moved:{name}"] = np.roll(found[name], 1, axis=0)
    ranks = rankings(stage)
    for name in config.ranked:
        found[name] = np.asarray(
            jax.vmap(functools.partial(selection.top, size=stage.number))(ranks[name])
        )
    return {name: found[name] for name in names(config)}


def search(stage: Stage, name: str, kind: str, direction: str, reference) -> np.ndarray:
    """The search against one unlearner, for every seed."""
    config, options = stage.config, stage.config.search.to_dict()
    tx = build.optimizer("sgd", options.pop("lower_learning_rate"))
    lower = selection.lower.BY_NAME[name](**config.lower.get(name, {}))
    mesh, axis = parallel.current(), fastest_axis(stage.task, stage.pool)

    def one(member, pool, reference):
        variables, rng = member
        train = {k: v[: stage.size] for k, v in pool.items()}
        found = selection.search(
            stage.task,
            variables,
            train,
            rng,
            size=stage.number,
            lower=lower,
            tx=tx,
            groups=stage.groups,
            direction=direction,
            reference=reference,
            **options,
        )
        return found._asdict()

    several = jax.jit(functools.partial(over_models, one, axis=axis, mesh=mesh))

    def compute(numbers):
        models = jax.tree.map(lambda x: x[numbers], stage.originals)
        rngs = ensembles.keys(config, f"{kind}:{name}", jnp.asarray(numbers))
        return several((models, rngs), stage.pool, reference)

    row = f"search_{kind}_{name}"
    found = ensembles.in_chunks(stage.run, row, config.num_seeds, config.ensemble.chunk, compute)
    return found["chosen"]


def rankings(stage: Stage) -> dict[str, np.ndarray]:
    """Scores of the groups, `[S, G]`; the highest are taken."""
    size, groups = stage.size, stage.groups
    targets = stage.pool["targets"][:size]

    def distance(variables):
        train = {k: v[:size] for k, v in stage.pool.items()}
        features = training.outputs(stage.task, variables, train)["features"]
        return selection.scores.prototype_distance(features, targets, classes)

    loss = stage.before["loss"][:, :size]
    of_examples = {
        "lowest_loss": -loss,
        "highest_loss": loss,
        "memorised": stage.unseen_loss - loss,
    }
    if "typical" in stage.config.ranked:
        classes = int(targets.max()) + 1
        of_examples["typical"] = -np.asarray(jax.jit(jax.vmap(distance))(stage.originals))
    number = np.bincount(groups)
    mean = lambda row: np.bincount(groups, row) / number
    return {name: np.stack([mean(row) for row in rows]) for name, rows in of_examples.items()}


def compare(stage: Stage, examples: dict[str, list[np.ndarray]]) -> list[table.Row]:
    """Oracle and methods on every set and seed: accuracies, MIA efficacy, gaps; one row each."""
    config = stage.config
    members = [(name, seed) for name in examples for seed in range(config.num_seeds)]
    results = {}
    # Sets of one size share a compiled program.
    for size in sorted({len(examples[name][seed]) for name, seed in members}):
        own = [(name, seed) for name, seed in members if len(examples[name][seed]) == size]
        forget = np.stack([examples[name][seed] for name, seed in own])
        everything = np.arange(stage.size)
        retain = np.stack([np.setdiff1d(everything, row) for row in forget])
        seeds = np.array([seed for _, seed in own])
        outputs = {"oracle": train_oracles(stage, f"oracle_{size}", retain)}
        for method in config.methods:
            outputs[method] = unlearn(stage, f"{method}_{size}", method, seeds, forget, retain)
        for method, values in outputs.items():
            for i, member in enumerate(own):
                of_one = {k: v[i] for k, v in values.items()}
                results[(*member, method)] = measured(stage, of_one, forget[i], retain[i])
    rows = []
    for name, seed in members:
        oracle = results[(name, seed, "oracle")]
        for method in ("oracle", *config.methods):
            row = results[(name, seed, method)]
            known = KNOWN[config.task]
            gaps = {
                "average_gap": average_gap(config, row, oracle),
                "forget_gap": abs(row[known] - oracle[known]),
            }
            rows.append({"method": method, "set": name, "seed": seed, **row, **gaps})
    return rows


def train_oracles(stage: Stage, name: str, retain: np.ndarray) -> ensembles.Arrays:
    """Models trained without each set."""
    keep = functools.partial(evaluated, stage.task, OUTPUTS[stage.config.task])
    return ensembles.train(stage.config, stage.run, stage.task, stage.pool, name, retain, keep)


def unlearn(stage: Stage, name: str, method: str, seeds, forget, retain) -> ensembles.Arrays:
    """Outputs of the originals after they unlearned each set."""
    config, task = stage.config, stage.task
    unlearner = build.unlearner(method, config, retain.shape[1])
    served = unlearner.serve(task)
    mesh, axis = parallel.current(), fastest_axis(task, stage.pool)

    def one(member, pool):
        variables, rng, gone, kept = member
        train = {k: v[: stage.size] for k, v in pool.items()}
        request = Request(*({k: v[rows] for k, v in train.items()} for rows in (gone, kept)))
        init_rng, rng = jax.random.split(rng)
        variables, memory = unlearner.init(init_rng, task, variables, train)
        variables, _ = unlearner.update(rng, task, variables, memory, request)
        return evaluated(served, OUTPUTS[config.task], variables, pool)

    several = jax.jit(functools.partial(over_models, one, axis=axis, mesh=mesh))

    def compute(numbers):
        models = jax.tree.map(lambda x: x[seeds[numbers]], stage.originals)
        rngs = ensembles.keys(config, name, jnp.asarray(numbers))
        rows = (jnp.asarray(x[numbers]) for x in (forget, retain))
        return several((models, rngs, *rows), stage.pool)

    return ensembles.in_chunks(stage.run, name, len(seeds), config.ensemble.chunk, compute)


def measured(stage: Stage, outputs: ensembles.Arrays, forget, retain) -> dict[str, float]:
    """Accuracies on forget, retain and test set, and MIA efficacy; errors for regression."""
    test = slice(stage.size, None)
    parts = {"forget": forget, "retain": retain, "test": test}
    if stage.config.task == "regression":
        errors = outputs["absolute_error"]
        return {f"{part}_error": float(errors[w].mean()) for part, w in parts.items()}
    row = {f"{part}_accuracy": float(outputs["accuracy"][w].mean()) for part, w in parts.items()}
    confidence = np.nan_to_num(outputs["confidence"])
    row["mia_efficacy"] = audit.membership_efficacy(
        confidence[retain], confidence[test], confidence[forget], seed=stage.config.seed
    )
    return row


def average_gap(config: ConfigDict, row: table.Row, oracle: table.Row) -> float:
    """Over all that `measured` gives."""
    if config.task == "classification":
        return audit.average_gap(row, oracle)
    return float(np.mean([abs(row[name] - oracle[name]) for name in audit.regression.GAP]))


def populations_of(stage: Stage, fit: Callable, examples: dict[str, np.ndarray]) -> list[table.Row]:
    """KLoM of every method on every set, by populations of models."""
    config, task = stage.config, stage.task
    whole = ensembles.whole(stage.size, config.num_originals)
    kept = fit("population", whole, ensembles.with_models(ensembles.margins(task)))
    lab = populations.Lab(
        config,
        stage.run,
        task,
        stage.pool,
        stage.size,
        ensembles.stacked(kept, stage.originals),
        kept["margin"],
        lambda name: None,
        ensembles.training_flops(config, task, stage.pool, stage.size),
        {},
    )
    rows = []
    for name, forget in examples.items():
        rows += populations.judge(lab, name, forget).rows
    return rows


if __name__ == "__main__":
    runner.launch(story, "worst_case")
