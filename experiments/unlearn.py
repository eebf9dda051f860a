"""Forget, audit, report. See configs/unlearn.py.

python -m experiments.unlearn --config=configs/unlearn.py --workdir=/tmp/unlearn
"""

import functools

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments import build, leaderboard, runner
from experiments.fit import make_fit
from unlearnjax import audit, parallel, training, trees
from unlearnjax.report import html, plots, table
from unlearnjax.training.checkpoints import Checkpoints
from unlearnjax.types import Request, Task, Variables

SETS = ("forget", "retain", "val", "test", "unseen")


def story(config: ConfigDict, run: runner.Run) -> None:
    """One scenario, or several and their leaderboard."""
    if "scenarios" in config:
        leaderboard.story(config, run, scenario)
    else:
        scenario(config, run)


def scenario(config: ConfigDict, run: runner.Run) -> list[table.Row]:
    """One forget set from beginning to end; returns the summary, one row per method."""
    if config.num_seeds < 1:
        raise ValueError(f"num_seeds must be >= 1, got {config.num_seeds}")
    problem = build.problem(config, run.data_dir)
    task = build.task(config, problem.dataset)
    build.validate_shared_fields(config)
    unlearners = {
        name: build.unlearner(name, config, len(problem.retain)) for name in config.methods
    }

    train, val, held_out = (place(d) for d in (problem.train, problem.val, problem.held_out))
    request = Request(
        forget=place(build.subset(problem.train, problem.forget)),
        retain=place(build.subset(problem.train, problem.retain)),
        validation=val,
    )
    run.start(config.num_seeds * (2 * config.train.num_epochs + len(unlearners)))

    def evaluated(task: Task, variables: Variables) -> dict[str, dict[str, np.ndarray]]:
        outputs = per_set(task, variables, (train, val, held_out), problem, config)
        outputs["forget"]["probs"] = predict(task, variables, request.forget, config)
        return outputs

    def fitted(name: str, data, indices: np.ndarray) -> list[Variables]:
        fit = make_fit(
            task,
            build.training_optimizer(config, len(indices)),
            data,
            place(indices),
            num_epochs=config.train.num_epochs,
            batch_size=config.train.batch_size,
            checkpoint_every=config.train.checkpoint_every,
            augment=build.augmentation(config),
        )
        models = []
        for seed in range(config.num_seeds):
            result = fit(run, f"{name}_seed{seed}", runner.key(config.seed, name, seed))
            add_row(name, seed, lambda r=result: (evaluated(task, r.variables), r.cost._asdict()))
            curves.setdefault(name, []).append(result.history["loss"])
            models.append(result.variables)
        return models

    rows, losses, curves, probs = [], {}, {}, []

    def add_row(method: str, seed: int, compute) -> None:
        def measured():
            outputs, cost = compute()
            numbers = audit.summarise(outputs, seed=seed)
            stop_if_not_finite(method, seed, numbers)
            arrays = {name: np.asarray(outputs[name]["loss"]) for name in SETS}
            arrays["probs"] = np.asarray(outputs["forget"]["probs"])
            return {"method": method, "seed": seed, **numbers, **cost}, arrays

        row, arrays = run.row(f"{method}_seed{seed}", measured)
        rows.append(row)
        probs.append(arrays.pop("probs"))
        losses.setdefault(method, []).append(arrays)

    originals = fitted("original", train, np.arange(len(problem.train["targets"])))
    fitted("oracle", train, problem.retain)
    for method, unlearner in unlearners.items():
        forget_with = make_forget(task, unlearner, train, request)
        for seed, original in enumerate(originals):

            def compute(method=method, seed=seed, original=original, forget_with=forget_with):
                rng = runner.key(config.seed, method, seed)
                variables, cost = forget_with(rng, original)
                save(run, f"{method}_seed{seed}", variables)
                return evaluated(unlearners[method].serve(task), variables), cost

            run.advance(f"{method}_seed{seed}", 0)
            add_row(method, seed, compute)
            run.advance(f"{method}_seed{seed}")

    run.progress.stop()
    novice = training.init_variables(task, train, runner.key(config.seed, "incompetent"))
    novice_probs = predict(task, novice, request.forget, config)
    rows = audit.against_oracles(rows, probs, novice_probs)
    return report(config, run, problem, rows, losses, curves)


def place(data):
    """Arrays on the device, or on all devices of the mesh."""
    mesh = parallel.current()
    return jax.device_put(data) if mesh is None else parallel.replicate(data, mesh)


def make_forget(task: Task, unlearner, train, request: Request):
    """`(rng, variables) -> (unlearned variables, cost columns)`, compiled for the first model.

    The request costs what `update` costs; what `init` did beforehand, with the training data still
    at hand, is reported beside it as `init_*`.
    """
    programs = {}

    def init(rng, variables, train):
        return unlearner.init(rng, task, variables, train)

    def update(rng, variables, memory, request):
        return unlearner.update(rng, task, variables, memory, request)

    def run_costed(name, fn, *args):
        if name not in programs:
            programs[name] = audit.compile_costed(fn, *args)
        return audit.timed(programs[name], *args)

    def forget(rng, variables):
        init_rng, update_rng = jax.random.split(rng)
        (variables, memory), init_cost = run_costed("init", init, init_rng, variables, train)
        args = (update_rng, variables, memory, request)
        (variables, _), cost = run_costed("update", update, *args)
        columns = cost._asdict() | {f"init_{k}": v for k, v in init_cost._asdict().items()}
        return variables, {**columns, "memory_bytes": float(trees.nbytes(memory))}

    return forget


def save(run: runner.Run, name: str, variables: Variables) -> None:
    """Keeps an unlearned model beside the originals."""
    with Checkpoints(run.workdir / "checkpoints" / name) as checkpoints:
        if checkpoints.latest_step() is None:
            checkpoints.save(0, variables)


@functools.partial(jax.jit, static_argnums=(0, 3))
def _probabilities(task: Task, variables: Variables, data, batch_size: int):
    def per_batch(batch):
        return jax.nn.softmax(task.apply(variables, batch, None, False)[0]["logits"])

    return training.map_batches(per_batch, data, batch_size)


def predict(task: Task, variables: Variables, data, config: ConfigDict) -> np.ndarray:
    """Predicted probabilities `[N, C]`."""
    return parallel.fetch(_probabilities(task, variables, data, config.evaluate.batch_size))


_evaluate = jax.jit(training.evaluate, static_argnums=0, static_argnames="batch_size")


def per_set(task: Task, variables: Variables, data, problem: build.Problem, config: ConfigDict):
    """Per-example outputs on each of `SETS`."""
    size = config.evaluate.batch_size
    on_train, on_val, on_held_out = (
        parallel.fetch(_evaluate(task, variables, part, batch_size=size)) for part in data
    )
    return {
        "forget": build.subset(on_train, problem.forget),
        "retain": build.subset(on_train, problem.retain),
        "val": on_val,
        "test": build.subset(on_held_out, problem.test),
        "unseen": build.subset(on_held_out, problem.unseen),
    }


def stop_if_not_finite(method: str, seed: int, numbers: dict[str, float]) -> None:
    bad = [k for k in ("forget_loss", "retain_loss", "val_loss") if not np.isfinite(numbers[k])]
    if bad:
        raise FloatingPointError(
            f"{method}, seed {seed}: {', '.join(bad)} is not finite; lower its learning rate or "
            "strength (unlearn." + method + "). Everything computed before is kept in the workdir"
        )


def report(config: ConfigDict, run: runner.Run, problem: build.Problem, rows, losses, curves):
    """Table, files, figures; returns the summary."""
    summary = table.summarise_rows(rows)
    order = ["oracle", "original", *config.methods]
    summary.sort(key=lambda row: order.index(row["method"]))
    pooled = {
        method: {name: np.concatenate([arrays[name] for arrays in seeds]) for name in SETS}
        for method, seeds in losses.items()
    }
    title = f"Forgetting {config.forget} of {config.dataset} ({config.model.name})"
    lead = (
        f"{len(problem.forget)} of {len(problem.train['targets'])} training examples are "
        f"forgotten; {len(problem.unseen)} unseen examples of their distribution, "
        f"{len(problem.test)} test examples of the retain set's. Mean ± standard deviation over "
        f"{config.num_seeds} seeds; in brackets the difference to the oracle's mean in points, "
        "and costs as a multiple of retraining. The ideal value of every column is the oracle's."
    )
    definitions = {
        **audit.COLUMNS,
        "seconds": "wall time of the request after compilation (oracle: of training)",
        "flops": "floating-point operations by XLA's cost analysis, loops multiplied out",
        "peak_bytes": "arguments, outputs and temporary buffers of the compiled program",
        "± and brackets": "standard deviation over seeds; difference to the oracle's mean",
    }
    figures = {
        "accuracy_gaps": (
            "Accuracy minus the oracle's; bars are methods with their spread over seeds, the grey "
            "band is the oracle's own spread.",
            plots.accuracy_gaps(summary),
        ),
        "losses": (
            "Loss per example, all seeds: a method (filled) that forgets exactly covers the oracle "
            "(outline).",
            plots.loss_histograms(pooled),
        ),
        "trade_off": (
            "Forgetting against utility against time: the lower left corner is ideal, dark is "
            "cheap.",
            plots.trade_off(summary),
        ),
        "training": (
            "Training loss of the originals and the oracles, one line per seed.",
            plots.training_curves({k: np.stack(v) for k, v in curves.items()}),
        ),
    }
    figures = {name: (text, html.figure_png(figure)) for name, (text, figure) in figures.items()}
    # The report is made of what does not depend on when it was made.
    environment = "\n".join(f"{k}: {v}" for k, v in runner.environment().items())
    init_costs = table.init_costs(summary)
    details = {
        "Cost before the request (init)": init_costs,
        "Configuration": config.to_yaml(),
        "Environment": environment,
    }
    page = html.page(
        title,
        lead,
        table.columns(summary),
        dict(figures.values()),
        definitions,
        details,
        warnings(summary),
    )
    sizes = {name: len(getattr(problem, name)) for name in ("forget", "retain", "unseen", "test")}
    run.write_results(rows, summary, page, {"sizes": sizes})
    run.write_figures({name: figure for name, (_, figure) in figures.items()})
    if parallel.is_main_process():
        table.print_table(summary, title)
        for warning in warnings(summary):
            print("warning:", warning)
        print(f"report: {run.workdir / 'report.html'}")
    return summary


def warnings(summary) -> list[str]:
    """Collapsed models: the most common way in which an unlearner looks good on the forget set."""
    return [
        f"{row['method']} lost {-100 * row['test_accuracy_gap']:.0f} points of test accuracy: the "
        "model collapsed; weaken the method (learning rate, alpha)"
        for row in summary
        if row["test_accuracy_gap"] < -0.1
    ]


if __name__ == "__main__":
    runner.launch(story, "unlearn")
