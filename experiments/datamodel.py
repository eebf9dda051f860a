"""Attribute, unlearn by it, compare with hundreds of oracles. See configs/datamodel.py.

python -m experiments.datamodel --config=configs/datamodel.py --workdir=/tmp/datamodel
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.datamodel import ATTRIBUTORS, METHODS
from experiments.common import build, datamodel_report, ensembles, populations, runner
from unlearnjax import attribution, checks, training
from unlearnjax import data as data_lib
from unlearnjax.report import table
from unlearnjax.training.ensembles import random_subsets, subset_masks

COMPONENTS = 10


def story(config: ConfigDict, run: runner.Run) -> None:
    """Ensemble, attributors, scores; then forget set by forget set."""
    validate(config)
    loaded = ensembles.load(config, run.data_dir)
    pool, size, options = loaded.data, loaded.size, config.ensemble
    known = {name: choose(name, loaded) for name in config.forget_sets}
    fewest = max(1, round(options.share * size))  # of the subsets, and of what forget sets leave
    if config.methods:
        fewest = min(fewest, size - max(forget_size(name, known[name]) for name in known))
        populations.validate(config, size)
    data_lib.validate_batch_size(config.train.batch_size, fewest, "config.train.batch_size")
    task = build.task(config, loaded.dataset)

    count = options.num_models + options.num_held_out
    subsets = random_subsets(runner.key(config.seed, "subsets"), count, size, options.share)
    whole = functools.partial(ensembles.whole, size)
    units = count + config.num_checkpoints
    if config.methods:
        units += config.num_originals + len(known) * populations.num_models(config)
    run.start(units)

    margin = ensembles.margins(task)

    def outputs(variables, pool):
        """Margins; and logits where something is to be unlearned, in the half of the precision."""
        kept = margin(variables, pool)
        if not config.methods:
            return kept
        logits = training.map_batches(
            functools.partial(attribution.logit_output, task, variables), pool, 256
        )
        return kept | {"logits": logits.astype(jnp.float16)}

    fit_all = functools.partial(ensembles.train, config, run, task, pool)
    seen = fit_all("subsets", np.asarray(subsets), outputs)
    masks = np.asarray(subset_masks(subsets, size))
    like = ensembles.like(task, pool)
    kept = fit_all("checkpoints", whole(config.num_checkpoints), ensembles.named)
    checkpoints = ensembles.stacked(kept, like)
    models = [jax.tree.map(lambda x, m=m: x[m], checkpoints) for m in range(config.num_checkpoints)]

    @functools.cache
    def fitted(name: str, output: str):
        """The attributor `name` of margins or logits; large ones are not kept in the run."""
        which = {k: seen[k][: options.num_models] for k in seen}
        given = which["margin"][..., None] if output == "margin" else which["logits"]
        return attribute(
            config, name, output, task, masks[: options.num_models], given, models, pool, size
        )

    scores = []
    for name in config.attributors:
        compute = functools.partial(score, config, name, fitted, masks, seen["margin"], size)
        scores.append(run.row(f"lds_{name}", compute)[0])

    outcomes = {}
    if config.methods:
        both = ensembles.with_models(margin)
        kept = fit_all("originals", whole(config.num_originals), both)
        originals = ensembles.stacked(kept, like)
        known |= components(config, run, functools.partial(fitted, "lasso", "margin"), size)
        lab = populations.Lab(
            config,
            run,
            task,
            pool,
            size,
            originals,
            kept["margin"],
            lambda name: fitted(name, "logits"),
            ensembles.training_flops(config, task, pool, size),
            {},
        )
        for name in config.forget_sets:
            outcomes[name] = populations.judge(lab, name, known[name])
    run.progress.stop()
    datamodel_report.write(config, run, scores, outcomes, known, size)


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` before anything is computed."""
    checks.among(
        attributors=(config.attributors, ATTRIBUTORS), methods=(config.methods, tuple(METHODS))
    )
    if not config.attributors and not (config.methods and config.forget_sets):
        raise ValueError("attributors, or methods and forget_sets, must be given, got none")
    if config.task != "classification":
        raise ValueError(f"task must be 'classification', got {config.task!r}")
    if config.methods and not config.forget_sets:
        raise ValueError("forget_sets must be given for the methods, got none")
    if config.methods:
        checks.at_least(4, num_originals=config.num_originals)
    for spec in config.forget_sets:
        component(spec)


def component(spec: str) -> tuple[int, int, int] | None:
    """'component:2:15/10' to (2, 15, 10): of which component, how many highest and lowest."""
    kind, _, rest = spec.partition(":")
    if kind != "component":
        return None
    try:
        number, sizes = rest.split(":")
        high, _, low = sizes.partition("/")
        found = int(number), int(high), int(low or 0)
        if not (1 <= found[0] <= COMPONENTS and min(found[1:]) >= 0 and found[1] + found[2] > 0):
            raise ValueError(found)
        return found
    except ValueError as error:
        raise ValueError(
            f"forget must be like component:1:10 or component:2:15/15, the component at most "
            f"{COMPONENTS}, got {spec!r}"
        ) from error


def choose(spec: str, loaded: ensembles.Pool) -> np.ndarray | None:
    """The forget set of a text; `None` for one that takes datamodels."""
    if component(spec):
        if (number := forget_size(spec, None)) >= loaded.size:
            raise ValueError(
                f"forget {spec!r} takes {number} of {loaded.size} training examples; some must stay"
            )
        if component(spec)[0] > loaded.size:  # more components than examples are there are not
            raise ValueError(f"forget {spec!r}: {loaded.size} examples have so many components")
        return None
    text = spec.replace("/", "+")
    return data_lib.forget_sets.select(text, loaded.train, loaded.test, loaded.rng).forget


def forget_size(spec: str, chosen: np.ndarray | None) -> int:
    """How many examples a forget set has, also one that is not chosen yet."""
    return sum(component(spec)[1:]) if chosen is None else len(chosen)


def components(config: ConfigDict, run: runner.Run, datamodels, size: int) -> dict[str, np.ndarray]:
    """The forget sets that are groups which the datamodels treat alike."""
    wanted = {name: component(name) for name in config.forget_sets if component(name)}

    def compute():
        if not wanted:
            return {}, {}
        weight = datamodels().weight[:, :size, 0]
        projections = attribution.principal_projections(weight.T, min(COMPONENTS, size))
        return {}, {
            name: data_lib.forget_sets.extremes(np.asarray(projections[:, number - 1]), high, low)
            for name, (number, high, low) in wanted.items()
        }

    return run.row("components", compute)[1]


def attribute(config, name: str, output: str, task, masks, outputs, models, pool, size: int):
    """The attributor of a name, of 'margin' or 'logits' of all of the pool."""
    train = {k: v[:size] for k, v in pool.items()}
    function = {"margin": attribution.margin_output, "logits": attribution.logit_output}[output]
    if name == "lasso":
        options = config.lasso.to_dict()
        return jax.jit(functools.partial(attribution.lasso_datamodels, **options))(masks, outputs)
    if name == "ridge":
        return jax.jit(attribution.ridge_datamodels)(masks, outputs)
    if name == "trak":
        rng = runner.key(config.seed, "trak")
        return attribution.trak(task, models, train, pool, rng, output=function, **config.trak)
    if name == "ekfac":
        options = {"method": "ekfac", "rng": runner.key(config.seed, "ekfac"), **config.ekfac}
    else:
        options = config.influence
    return attribution.influence(task, models, train, pool, output=function, **options)


def score(config: ConfigDict, name: str, fitted, masks, margins, size: int):
    """LDS of an attributor on the subsets that it did not see, as a row."""
    start = time.perf_counter()
    held_out = slice(config.ensemble.num_models, None)
    predict = jax.jit(attribution.predict_subsets)
    predicted = np.asarray(predict(fitted(name, "margin"), masks[held_out]))[..., 0]
    seconds = time.perf_counter() - start
    scores = attribution.linear_datamodeling_score(predicted, margins[held_out])
    row: table.Row = {"attributor": name, "seconds": seconds}
    for part, own in (("training", scores[:size]), ("test", scores[size:])):
        values = attribution.score_interval(own, seed=config.seed)
        row.update(zip((f"{part}_{x}" for x in ("lds", "low", "high")), values, strict=True))
    return row, {"scores": scores}


if __name__ == "__main__":
    runner.launch(story, "datamodel")
