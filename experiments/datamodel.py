"""Train on many subsets, attribute, score the attributors. See configs/datamodel.py.

python -m experiments.datamodel --config=configs/datamodel.py --workdir=/tmp/datamodel
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs.datamodel import ATTRIBUTORS
from experiments import build, measure, runner
from unlearnjax import attribution, checks, parallel, training, trees
from unlearnjax import data as data_lib
from unlearnjax.report import html, table
from unlearnjax.training import ensembles

COLUMNS = {
    "LDS": "linear datamodeling score: Spearman correlation over held-out subsets between "
    "predicted margins and those of models trained on them, mean over examples; with its 95 % "
    "bootstrap interval over examples",
    "training": "of the margins of training examples",
    "test": "of the margins of test examples",
    "time": "to fit the attributor and to predict the held-out subsets, compilation included; the "
    "models that it looks at are not counted",
}


def story(config: ConfigDict, run: runner.Run) -> None:
    """Ensemble, attributors, scores."""
    validate(config)
    dataset = build.dataset(config, run.data_dir)
    rng = np.random.default_rng(config.seed)
    train = data_lib.subsample(dataset.train, config.num_train, rng)
    test = data_lib.subsample(dataset.test, config.num_test, rng)
    shared = [name for name in train if name in test]
    pool = measure.place({k: np.concatenate([train[k], test[k]]) for k in shared})
    size, options = len(train["targets"]), config.ensemble
    task = build.task(config, dataset)

    count = options.num_models + options.num_held_out
    key = runner.key(config.seed, "subsets")
    subsets = ensembles.random_subsets(key, count, size, options.share)
    whole = jnp.broadcast_to(jnp.arange(size), (config.num_checkpoints, size))
    run.start(count + config.num_checkpoints)
    margin = lambda v: {"margin": training.evaluate(task, v, pool)["margin"]}
    margins = train_all(config, run, task, pool, "subsets", subsets, margin)["margin"]
    named = lambda v: dict(zip(trees.names(v), jax.tree.leaves(v), strict=True))
    kept = train_all(config, run, task, pool, "checkpoints", whole, named)
    like = jax.eval_shape(lambda r: training.init_variables(task, pool, r), jax.random.key(0))
    leaves = [kept[name] for name in trees.names(like)]
    structure = jax.tree.structure(like)
    models = [structure.unflatten([x[m] for x in leaves]) for m in range(config.num_checkpoints)]
    run.progress.stop()

    masks = ensembles.subset_masks(subsets, size)
    fitted = slice(options.num_models)
    rows = []
    for name in config.attributors:

        def score(name=name):
            start = time.perf_counter()
            outputs = margins[fitted, :, None]
            attributor = fit(config, name, task, masks[fitted], outputs, models, pool, size)
            predict = jax.jit(attribution.predict_subsets)
            predicted = np.asarray(predict(attributor, masks[options.num_models :]))[..., 0]
            seconds = time.perf_counter() - start
            actual = margins[options.num_models :]
            scores = attribution.linear_datamodeling_score(predicted, actual)
            row = {"attributor": name, "seconds": seconds}
            for part, own in (("training", scores[:size]), ("test", scores[size:])):
                values = attribution.score_interval(own, seed=config.seed)
                row.update(
                    zip((f"{part}_{x}" for x in ("lds", "low", "high")), values, strict=True)
                )
            return row, {"scores": scores}

        rows.append(run.row(f"lds_{name}", score)[0])
    report(config, run, rows, size)


def validate(config: ConfigDict) -> None:
    """Raises `ValueError` before anything is computed."""
    unknown = [name for name in config.attributors if name not in ATTRIBUTORS]
    if unknown:
        raise ValueError(f"attributors must be among {ATTRIBUTORS}, got {unknown}")
    if config.task != "classification":
        raise ValueError(f"task must be 'classification', got {config.task!r}")
    options = config.ensemble
    checks.at_least(2, num_models=options.num_models, num_held_out=options.num_held_out)
    checks.at_least(1, chunk=options.chunk, num_checkpoints=config.num_checkpoints)
    checks.open_share(share=options.share)


def train_all(config, run, task, pool, name: str, subsets, keep) -> dict[str, np.ndarray]:
    """What `keep` makes of a model per subset, `[M, ...]`; a chunk that was finished is not redone.

    Model m has the key `(name, m)`: it is the same in any chunk.
    """
    size = subsets.shape[1]
    tx = build.training_optimizer(config, size)
    augment = build.augmentation(config)

    @jax.jit
    def compute(subsets, numbers):
        rngs = jax.vmap(lambda m: jax.random.fold_in(runner.key(config.seed, name), m))(numbers)
        return ensembles.train_ensemble(
            task,
            tx,
            pool,
            subsets,
            rngs,
            keep,
            num_epochs=config.train.num_epochs,
            batch_size=config.train.batch_size,
            augment=augment,
        )

    parts = []
    for begin in range(0, len(subsets), config.ensemble.chunk):
        numbers = np.arange(begin, min(begin + config.ensemble.chunk, len(subsets)))

        def chunk(numbers=numbers):
            start = time.perf_counter()
            # The last chunk is filled up, so that all share one compiled program.
            filled = np.resize(numbers, min(config.ensemble.chunk, len(subsets)))
            kept = parallel.fetch(compute(subsets[filled], jnp.asarray(filled)))
            kept = {k: v[: len(numbers)] for k, v in kept.items()}
            if not all(np.isfinite(v).all() for v in kept.values()):
                raise FloatingPointError(
                    f"{name}: models {numbers[0]} to {numbers[-1]} are not finite; lower "
                    "train.learning_rate"
                )
            return {"models": len(numbers), "seconds": time.perf_counter() - start}, kept

        parts.append(run.row(f"{name}_{begin:06d}", chunk)[1])
        run.advance(name, len(numbers))
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def fit(config, name: str, task, masks, margins, models, pool, size: int):
    """The attributor of a name."""
    train = {k: v[:size] for k, v in pool.items()}
    if name == "lasso":
        return jax.jit(attribution.lasso_datamodels)(masks, margins)
    if name == "ridge":
        return jax.jit(attribution.ridge_datamodels)(masks, margins)
    if name == "trak":
        rng = runner.key(config.seed, "trak")
        return attribution.trak(task, models, train, pool, rng, **config.trak)
    return attribution.influence(task, models, train, pool, **config.influence)


def report(config: ConfigDict, run: runner.Run, rows: list[table.Row], size: int) -> None:
    """Table and files."""
    options = config.ensemble
    title = f"Attribution: {config.dataset} ({config.model.name})"
    lead = (
        f"Linear datamodeling score on {options.num_held_out} held-out subsets of {size} training "
        f"examples (share {options.share}). Datamodels see {options.num_models} models trained on "
        f"other subsets; TRAK and influence functions {config.num_checkpoints} models trained on "
        "all. 1 is ideal; the noise between two trainings keeps every attributor below it."
    )
    cells = columns(rows)
    page = html.page(title, lead, cells, {}, COLUMNS, {"Configuration": config.to_yaml()})
    run.write_results(rows, rows, page, {})
    if parallel.is_main_process():
        table.print_columns(cells, title, "LDS: mean over examples [95 % bootstrap interval]")
        print(f"report: {run.workdir / 'report.html'}")


def columns(rows: list[table.Row]) -> list[tuple[str, list[str]]]:
    """The printed table."""
    text = lambda row, part: (
        f"{row[f'{part}_lds']:.3f} [{row[f'{part}_low']:.3f}, {row[f'{part}_high']:.3f}]"
    )
    return [
        ("attributor", [row["attributor"] for row in rows]),
        ("training LDS", [text(row, "training") for row in rows]),
        ("test LDS", [text(row, "test") for row in rows]),
        ("time", [f"{row['seconds']:.1f} s" for row in rows]),
    ]


if __name__ == "__main__":
    runner.launch(story, "datamodel")
