"""Forget, audit, report. See configs/unlearn.py.

python -m experiments.unlearn --config=configs/unlearn.py --workdir=/tmp/unlearn
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments.common import build, evaluations, kinds, leaderboard, measure, runner
from experiments.common.fit import loss_curves, take_originals, take_stages
from unlearnjax import audit, checks, parallel, tasks
from unlearnjax.report import html, plots, table
from unlearnjax.training.checkpoints import Checkpoints
from unlearnjax.types import Variables

_ORIGINALS = flags.DEFINE_string(
    "originals",
    None,
    "The --workdir of an earlier run that learned the same: its trained originals are taken.",
)

# Methods that go by the forget set's Fisher diagonal.
SSD = {"ssd", "adaptive_ssd"}


def story(config: ConfigDict, run: runner.Run) -> None:
    """One scenario, or several and their leaderboard."""
    checks.among(
        columns=(config.columns, known_columns(config)),
        by_kind=(config.get("by_kind", ()), known_columns(config)),
    )
    originals = Path(_ORIGINALS.value).absolute() if _ORIGINALS.value else None
    if "scenarios" in config:
        leaderboard.story(config, run, scenario, originals)
    else:
        scenario(config, run, originals)


def scenario(config: ConfigDict, run: runner.Run, trained: Path | None = None) -> list[table.Row]:
    """One forget set from beginning to end; returns the summary, one row per method.

    The originals are those of the work directory `trained`, if one is given.
    """
    problem = build.problem(config, run.data_dir)
    bench = measure.bench(config, problem)
    build.validate_shared_fields(config)
    given = build.given(config, problem.dataset)
    unlearner = lambda name, values: build.unlearner(
        name, config, len(problem.retain), {**given, **values}
    )
    unlearners = {name: unlearner(name, {}) for name in config.methods}
    seeds = range(config.num_seeds)
    # More oracles than originals, where how they differ among themselves is asked for; or none.
    number = config.get("num_oracles")
    oracles = seeds if number is None else range(number)
    reference = "oracle" if oracles else None

    def missing(name: str) -> bool:
        own = oracles if name == "oracle" else seeds
        return not all(run.has_row(f"{name}_seed{seed}") for seed in own)

    # Of a method that is stopped at several points all take the same steps, as far as they go.
    whole = {stopped: m for m, own in config.get("curves", {}).items() for stopped in own}
    everything = np.arange(len(problem.train["targets"]))
    trained_on = {
        "original": (everything, lambda bench: bench.start),
        "oracle": (problem.oracle, measure.oracle_start),
    }

    def workers(bench: measure.Bench) -> tuple[dict, dict]:
        """What forgets, by method; what trains originals and oracles."""

        def forgetter(method: str) -> measure.Forgetter:
            of_values = functools.partial(unlearner, method)
            return measure.forgetter(bench, of_values, lambda: run.compiling(method))

        fitter = functools.partial(measure.fitter, config, bench.task, bench.train)
        return (
            {method: forgetter(method) for method in unlearners},
            {name: fitter(rows, start(bench)) for name, (rows, start) in trained_on.items()},
        )

    forgetters, fitters = workers(bench)
    todo = [method for method in unlearners if missing(method)]
    measure.validate({method: forgetters[method] for method in todo})
    if trained is not None:
        names = [f"original_seed{seed}" for seed in range(config.num_seeds)]
        take_originals(run, names, trained)
        take_stages(run, (measure.BASE, *bench.evaluation.stages), trained)
    epochs = config.train.num_epochs * (len(seeds) + len(oracles))
    run.start(epochs + len(seeds) * len(unlearners))
    if config.get("base") is not None:
        bench = measure.based(bench, run)
        forgetters, fitters = workers(bench)
    evaluation = bench.evaluation
    context = evaluation.prepare(run, bench)
    rows, observed, by_method, curves, targets = [], [], {}, {}, {}
    served = {method: own.serve(bench.task) for method, own in unlearners.items()}
    by_importance = not SSD.isdisjoint(config.unlearn[m].get("constructor", m) for m in unlearners)

    def add_row(name: str, method: str, seed: int, task, compute, number: int = 0) -> None:
        """`compute` gives a model, its cost, and what it did after each request but the last."""

        def measured():
            variables, cost, before = compute()
            arrays = dict(evaluation.observe(context, task, variables))
            for place, seen in enumerate(before):
                arrays |= {f"{field}_after{place}": seen[field] for field in evaluation.trailed}
            numbers = evaluation.numbers(context, arrays, seed)
            stop_if_not_finite(method, seed, numbers, evaluation.required_finite)
            # Oracles beyond the originals are compared with those in turn.
            known = method == "original" or seed in targets
            whose = seed if known else seed % len(seeds)
            target = targets.get(whose, measure.relearn_target(bench, numbers))
            numbers["relearn_steps"] = int(bench.relearn(task, variables, target))
            if method == "original" and by_importance:
                arrays["fisher_shares"] = measure.fisher_shares(bench, variables)
            labels = {"method": method, "seed": seed, "perturbed": number}
            return {**labels, **numbers, **cost}, arrays

        row, arrays = run.row(name, measured)
        if method == "original":
            targets[seed] = measure.relearn_target(bench, row)
        rows.append(row)
        observed.append(arrays)
        if number == 0:
            by_method.setdefault(method, []).append(arrays)

    def add_fits(method: str, seeds: range) -> dict[int, Variables]:
        fits = measure.fit(bench, run, method, fitters[method], seeds)
        for seed, fit in fits.items():
            compute = lambda fit=fit: (fit.variables, fit.cost._asdict(), ())
            add_row(f"{method}_seed{seed}", method, seed, bench.task, compute)
            for player, losses in loss_curves(fit.history).items():
                curves.setdefault(f"{method}, {player}" if player else method, []).append(losses)
        return {seed: fit.variables for seed, fit in fits.items()}

    def add_forgetting(method: str, originals: dict[int, Variables]) -> None:
        """A row per original, and one for each of its perturbations."""
        forget, task = forgetters[method].forget, served[method]
        for seed, original in originals.items():
            name = f"{method}_seed{seed}"
            run.advance(name, 0)
            old = run.has_row(name)
            for number in range(1 + config.rounding.num_perturbed):
                own = name if number == 0 else f"{name}_perturbed{number}"

                def compute(own=own, seed=seed, original=original, number=number):
                    if number:
                        rng = runner.key(config.seed, "rounding", seed, number)
                        original = measure.perturbed(original, rng, config.rounding.size)
                    before = []
                    after = lambda model: before.append(evaluation.observe(context, task, model))
                    rng = runner.key(config.seed, whole.get(method, method), seed)
                    variables, cost = forget(rng, original, after=after)
                    if number == 0:
                        save(run, own, variables)
                        if task is bench.task:  # and not another model around it
                            export(bench, run, own, variables)
                    return variables, cost, before

                add_row(own, method, seed, task, compute, number)
            run.advance(name, resumed=old)

    to_fit = [name for name in fitters if missing(name) and not (trained and name == "original")]
    programs = [
        *(functools.partial(fitters[name].prepare, run, name) for name in to_fit),
        *(forgetters[method].prepare for method in todo),
    ]
    if programs:  # the longest comes first
        measure.prepare([functools.partial(measure.rehearse, bench, context), *programs])
    originals = add_fits("original", seeds)
    if evaluation.approve is not None:
        evaluation.approve(context, by_method["original"])
    add_fits("oracle", oracles)
    for method in unlearners:
        add_forgetting(method, originals)
    compared = evaluation.against_oracles(context, rows, observed)
    summary = table.summarise_rows(compared, evaluation.columns, reference)
    unsure = [row["method"] for row in summary if row["sensitive"] and row["method"] in unlearners]
    more = range(config.num_seeds, config.rounding.num_seeds) if unsure else range(0)
    if more:
        run.extend(len(more) * (config.train.num_epochs + len(unsure)))
        originals = add_fits("original", more)
        for method in unsure:
            add_forgetting(method, originals)

    run.progress.stop()
    rows = evaluation.against_oracles(context, rows, observed)
    if evaluation.under_oracle is not None:
        # From their checkpoints, one after another: so many models need not fit into memory.
        again = lambda seed: measure.fit(bench, run, "oracle", fitters["oracle"], [seed])
        models = ((seed, again(seed)[seed].variables) for seed in oracles)
        ask = functools.partial(evaluation.under_oracle, context, bench.task)
        rows = with_verdicts(rows, observed, ask, models)
    return report(bench, run, rows, by_method, curves)


def with_verdicts(
    rows: Sequence[table.Row],
    observed: Sequence[evaluations.Arrays],
    ask: Callable[[Variables, evaluations.Arrays], table.Row],
    oracles: Iterable[tuple[int, Variables]],
) -> list[table.Row]:
    """Rows with the means of what oracles, by seed, make of them; of an oracle the others."""
    verdicts = [[] for _ in rows]
    for seed, oracle in oracles:
        for own, row, arrays in zip(verdicts, rows, observed, strict=True):
            if (row["method"], row["seed"]) != ("oracle", seed):
                own.append(ask(oracle, arrays))
    names = dict.fromkeys(name for own in verdicts for one in own for name in one)
    mean = lambda values: float(np.mean(values)) if values else float("nan")
    return [
        {**row, **{name: mean([one[name] for one in own]) for name in names}}
        for row, own in zip(rows, verdicts, strict=True)
    ]


def known_columns(config: ConfigDict) -> list[str]:
    """What `config.columns` may name."""
    costs = audit.Cost._fields
    before = [f"init_{name}" for name in costs]
    own = evaluations.of(config).columns.definitions
    return sorted({*own, *costs, *before, "memory_bytes"})


def save(run: runner.Run, name: str, variables: Variables) -> None:
    """Keeps an unlearned model beside the originals."""
    with Checkpoints(run.workdir / "checkpoints" / name) as checkpoints:
        if checkpoints.latest_step() is None:
            checkpoints.save(0, variables)


def export(bench: measure.Bench, run: runner.Run, name: str, variables: Variables) -> None:
    """Writes an unlearned model as it was published, if it started from what others publish."""
    plain = tasks.merged(bench.task, variables)
    kinds.of(bench.config).export(bench.config, run.workdir / "models" / name, plain)


def stop_if_not_finite(
    method: str, seed: int, numbers: dict[str, float], required: Sequence[str]
) -> None:
    """Raises `FloatingPointError` for a model of which one of the columns makes no sense."""
    bad = [name for name in required if not np.isfinite(numbers[name])]
    if bad:
        raise FloatingPointError(
            f"{method}, seed {seed}: {', '.join(bad)} is not finite; lower its learning rate or "
            "strength (unlearn." + method + "). Everything computed before is kept in the workdir"
        )


def report(bench: measure.Bench, run: runner.Run, rows, arrays, curves) -> list[table.Row]:
    """Table, files, figures; returns the summary.

    `arrays` are those of every seed, `curves` losses by epoch of every seed, by method and player.
    """
    config, problem, columns = bench.config, bench.problem, bench.evaluation.columns
    oracles = any(row["method"] == "oracle" for row in rows)
    summary = table.summarise_rows(rows, columns, "oracle" if oracles else None)
    order = ["oracle", "original", *config.methods]
    summary.sort(key=lambda row: order.index(row["method"]))
    title = f"Forgetting {config.forget} of {config.dataset} ({config.model.name})"
    lead = (
        f"{len(problem.forget)} of {len(problem.train['targets'])} training examples are "
        f"forgotten; {len(problem.unseen)} unseen examples of their distribution, "
        f"{len(problem.test)} test examples of the retain set's. {problem.note}Mean ± standard "
        f"deviation over {config.num_seeds} seed(s); in brackets the difference to the oracle's "
        "mean, and costs as a multiple of retraining. The ideal value of every column is the "
        "oracle's."
    )
    definitions = {
        **columns.definitions,
        "time": "wall time of the request after compilation (oracle: of training)",
        "FLOPs": "floating-point operations by XLA's cost analysis, loops multiplied out",
        "memory": "arguments, outputs and temporary buffers of the compiled program",
        "± and brackets": "standard deviation over seeds; difference to the oracle's mean; shares "
        "are printed in percent and points, gaps times 100",
        "compiling": "wall time of compiling the request, beside others, or the training",
        "time before, FLOPs before, kept": "what a method did while the training data was at hand, "
        "and keeps, before any request",
        **table.marks_mean(columns),
    }
    figures = bench.evaluation.figures(bench, summary, arrays)
    figures["training"] = (
        "Training loss of the originals and the oracles, one line per seed.",
        plots.training_curves(curves),
    )
    figures = {name: (text, html.figure_png(figure)) for name, (text, figure) in figures.items()}
    # The report is made of what does not depend on when it was made.
    environment = "\n".join(f"{k}: {v}" for k, v in runner.environment().items())
    details = {"Configuration": config.to_yaml(), "Environment": environment}
    page = html.page(
        title,
        lead,
        table.columns(summary, columns, config.columns),
        dict(figures.values()),
        definitions,
        details,
        warnings(summary, columns),
        {**bench.evaluation.examples(bench, arrays), "Costs": table.cost_columns(summary)},
    )
    names = ("forget", "retain", "oracle", "unseen", "test")
    run.write_results(
        rows, summary, page, {"sizes": {name: len(getattr(problem, name)) for name in names}}
    )
    run.write_figures({name: figure for name, (_, figure) in figures.items()})
    if parallel.is_main_process():
        table.print_table(summary, columns, title, config.columns)
        for warning in warnings(summary, columns):
            print("warning:", warning)
        print(f"report: {run.workdir / 'report.html'}")
    return summary


def warnings(summary: list[table.Row], columns: table.Columns) -> list[str]:
    """What to do about methods that collapsed, or did nothing."""
    advice = {
        "collapsed": "weaken it (learning rate, alpha)",
        "did not forget": "strengthen it, or search its values (configs/sweep.py)",
    }
    wrong = table.verdicts(summary, columns)
    return [f"{method} {verdict}: {advice[verdict]}" for method, verdict in wrong.items()]


if __name__ == "__main__":
    runner.launch(story, "unlearn")
