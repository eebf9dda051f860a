"""Finds every method's hyper-parameters on validation data. See configs/sweep.py.

python -m experiments.sweep --config=configs/sweep.py --workdir=/tmp/sweep
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from configs import unlearn
from experiments.common import build, measure, runner
from experiments.common.fit import Fit
from unlearnjax import checks, parallel
from unlearnjax.report import html, table
from unlearnjax.types import Task, Variables

SEARCHES = ("grid", "random")
BUDGETS = ("seconds", "flops")

Values = dict[str, Any]


def story(config: ConfigDict, run: runner.Run) -> None:
    """Every forget set, then every method on it; the best values go to `tuned.json`."""
    validate(config, build.given(config, build.dataset(config, run.data_dir)))
    rows, tuned, configs = [], {}, {}
    for forget in config.scenarios:
        one = ConfigDict(config.to_dict() | {"forget": forget, "held_out": "validation"})
        build.problem(one, run.data_dir)  # a bad one fails before the first is run
        configs[forget] = one
    for forget, one in configs.items():
        found = sweep(one, run, runner.folder(forget))
        rows += found
        tuned[unlearn.kind_of(forget)] = {row["method"]: row["values"] for row in found}
    run.progress.stop()
    report(config, run, rows, tuned)


def validate(config: ConfigDict, given: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raises `ValueError` for a search or a space that makes no sense.

    `given` are fields that constructors have from the task.
    """
    checks.one_of(search=(config.search, SEARCHES), budget_unit=(config.budget_unit, BUDGETS))
    checks.among(methods=(config.methods, sorted(config.spaces)))
    for method in config.methods:
        unknown = set(config.spaces[method]) - set(config.unlearn[method])
        if unknown:
            raise ValueError(f"spaces.{method} has fields unknown to it: {sorted(unknown)}")
        for values in candidates(config, method):
            build.unlearner(method, config, config.train.batch_size, {**given, **values})


def sweep(config: ConfigDict, run: runner.Run, name: str) -> list[table.Row]:
    """One forget set: the best trial of every method, as a row."""
    problem = build.problem(config, run.data_dir)
    bench = measure.bench(config, problem)
    run.start(config.num_seeds * 2 * config.train.num_epochs + len(config.methods))
    bench = measure.based(bench, run)
    context = bench.evaluation.prepare(run, bench)
    judge = partial(judged, bench, context)
    seeds, everything = range(config.num_seeds), np.arange(len(problem.train["targets"]))
    fitter = partial(measure.fitter, config, bench.task, bench.train, start=bench.start)
    originals = measure.fit(bench, run, f"{name}-original", fitter(everything), seeds)
    if bench.evaluation.approve is not None:
        observe = partial(bench.evaluation.observe, context, bench.task)
        bench.evaluation.approve(context, [observe(fit.variables) for fit in originals.values()])
    oracles = measure.fit(
        bench,
        run,
        f"{name}-oracle",
        fitter(problem.oracle, start=measure.oracle_start(bench)),
        seeds,
    )
    audits = [judge(bench.task, fit.variables, seed) for seed, fit in oracles.items()]
    ideal = {k: float(np.mean([row[k] for row in audits])) for k in audits[0]}
    cost = float(np.mean([getattr(fit.cost, config.budget_unit) for fit in oracles.values()]))
    best = []
    for method in config.methods:
        run.advance(f"{name} {method}", 0)
        trials = try_out(bench, run, f"{name}-{method}", method, originals, judge, ideal, cost)
        chosen = choose(trials, config.max_ratio)
        best.append(
            {
                "scenario": config.forget,
                "method": method,
                "gap": chosen["gap"],
                "default_gap": trials[0]["gap"],
                "ratio": chosen["ratio"],
                "num_trials": len(trials),
                "values": chosen["values"],
            }
        )
        run.advance(f"{name} {method}")
    return best


def choose(trials: Sequence[dict], max_ratio: float) -> dict:
    """The smallest gap among trials that take at most `max_ratio` retrainings, if any do.

    Trials of one program take one time, that of the fastest: the rest is the machine's noise.
    """

    def program(trial):
        return tuple(sorted(build.split_values(trial["values"])[0].items()))

    fastest = {}
    for trial in trials:
        fastest[program(trial)] = min(trial["ratio"], fastest.get(program(trial), np.inf))
    usable = [trial for trial in trials if fastest[program(trial)] <= max_ratio]
    return min(usable or trials, key=lambda trial: (trial["gap"], trial["ratio"]))


def try_out(
    bench: measure.Bench,
    run: runner.Run,
    name: str,
    method: str,
    originals: Mapping[int, Fit],
    judge: Callable[[Task, Variables, int], table.Row],
    ideal: Mapping[str, float],
    cost: float,
) -> list[dict]:
    """The trials of one method, the values of its config first, until the budget is spent."""
    config, spent, trials, forgetters = bench.config, 0.0, [], {}
    of_task = build.given(config, bench.problem.dataset)
    unlearner = lambda values: build.unlearner(
        method, config, len(bench.problem.retain), {**of_task, **values}
    )
    for number, values in enumerate(candidates(config, method)):
        static, traced = build.split_values(values)
        group = tuple(sorted(static.items()))
        if group not in forgetters:
            make = lambda given, static=static: unlearner({**static, **given})
            forgetters[group] = measure.forgetter(bench, make, lambda: run.compiling(method)).forget
        serve = unlearner(values).serve

        def compute(forget=forgetters[group], traced=traced, values=values, serve=serve):
            gaps, costs, units = [], [], []
            for seed, original in originals.items():
                rng = runner.key(config.seed, method, seed)
                variables, costed = forget(rng, original.variables, traced)
                row = judge(serve(bench.task), variables, seed)
                gaps.append(bench.evaluation.gap.distance(row, ideal))
                costs.append(costed[config.budget_unit])
                units.append(costed[config.budget_unit] + costed[f"init_{config.budget_unit}"])
            gap = float(np.mean(gaps))
            return {
                "gap": gap if np.isfinite(gap) else 1.0,
                "ratio": float(np.mean(costs)) / cost,
                "spent": float(np.sum(units)) / cost,
                "values": values,
            }, {}

        trial, _ = run.row(f"{name}-{number}", compute)
        trials.append(trial)
        spent += trial["spent"]
        if spent > config.budget:
            break
    return trials


def candidates(config: ConfigDict, method: str) -> list[Values]:
    """The config's own values, then those of the grid, or a random choice of them."""
    space = config.spaces[method].to_dict()
    own = {field: config.unlearn[method][field] for field in space}
    grid = build.grid(space)
    if config.search == "random":
        rng = np.random.default_rng(config.seed)
        grid = [grid[i] for i in rng.permutation(len(grid))]
    others = [values for values in grid if values != own]
    return [own, *others][: config.max_trials]


def judged(bench: measure.Bench, context, task: Task, variables: Variables, seed: int) -> table.Row:
    """The audits of one model on the validation data."""
    arrays = bench.evaluation.observe(context, task, variables)
    return bench.evaluation.numbers(context, arrays, seed)


def report(config: ConfigDict, run: runner.Run, rows: list[table.Row], tuned: dict) -> None:
    """Table, files and the values found."""
    title = f"Hyper-parameters: {config.dataset} ({config.model.name})"
    cells = [
        ("scenario", [row["scenario"] for row in rows]),
        ("method", [row["method"] for row in rows]),
        ("gap", [f"{100 * row['gap']:.1f}" for row in rows]),
        ("with given values", [f"{100 * row['default_gap']:.1f}" for row in rows]),
        ("cost", [f"{row['ratio']:.2g}x" for row in rows]),
        ("trials", [str(row["num_trials"]) for row in rows]),
        ("values", [", ".join(f"{k}={v}" for k, v in row["values"].items()) for row in rows]),
    ]
    lead = (
        "Average gap in points to oracles on validation data, of models and a split that the "
        f"leaderboard does not use; mean over {config.num_seeds} seeds. Cost of a request as a "
        f"multiple of retraining ({config.budget_unit})."
    )
    page = html.page(title, lead, cells, {}, {}, {"Configuration": config.to_yaml()})
    run.write_results(rows, rows, page, {"tuned": tuned})
    if parallel.is_main_process():
        table.write_json(run.workdir / "tuned.json", tuned)
        table.print_columns(cells, title, "average gap on validation data, points; x retraining")
        print(f"values: {run.workdir / 'tuned.json'}")


if __name__ == "__main__":
    runner.launch(story, "sweep")
