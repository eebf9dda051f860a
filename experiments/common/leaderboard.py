"""Several scenarios in one table: which method comes nearest to the oracle, and at what price."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from configs import unlearn
from experiments.common import build, evaluations, runner
from experiments.common.fit import other_training
from unlearnjax import checks, parallel
from unlearnjax.report import html, plots, table


def story(
    config: ConfigDict,
    run: runner.Run,
    scenario: Callable[[ConfigDict, runner.Run, Path | None], list[table.Row]],
    originals: Path | None = None,
) -> None:
    """Runs every scenario in a directory of its own, then ranks the methods.

    Originals are trained once, or taken from the work directory `originals`, unless scenarios
    corrupt the training data each in its own way.
    """
    checks.one_of(rank=(config.rank, tuple(evaluations.of(config).gap.ranks)))
    if not config.scenarios:
        raise ValueError("scenarios must be at least one, got none")
    configs = {}
    for forget in config.scenarios:
        one = ConfigDict(config.to_dict() | {"forget": forget})
        unlearn.set_tuned(one, one.tuned)
        del one.scenarios, one.tuned, one.rank
        configs[forget] = one
        build.problem(configs[forget], run.data_dir)  # a bad one fails before the first is run
    summaries, first = {}, None
    for forget, one in configs.items():
        own = run.sub(runner.folder(forget), one)
        first = first or own
        same = first is not own and not other_training(first.config, own.config)
        summaries[forget] = scenario(one, own, first.workdir if same else originals)
    rows = rank(summaries, config.rank)
    report(config, run, rows, list(summaries))


def rank(summaries: dict[str, list[table.Row]], column: str = "average_gap") -> list[table.Row]:
    """One row per method, the oracle first, then by the mean of a column over scenarios.

    Columns: `gap: SCENARIO` (mean over seeds) with `_std`, `gap` and `seconds_ratio` (means over
    scenarios; of the latter geometric).
    """
    rows = []
    for method in [row["method"] for row in next(iter(summaries.values()))]:
        own = {
            name: next(r for r in summary if r["method"] == method)
            for name, summary in summaries.items()
        }
        row = {"method": method, "sensitive": any(r["sensitive"] for r in own.values())}
        for name, result in own.items():
            row[f"gap: {name}"] = result[column]
            row[f"gap: {name}_std"] = result[f"{column}_std"]
        row["gap"] = float(np.mean([r[column] for r in own.values()]))
        ratios = [r["seconds_ratio"] for r in own.values()]
        row["seconds_ratio"] = float(np.exp(np.mean(np.log(ratios))))
        rows.append(row)
    return sorted(rows, key=lambda row: (row["method"] != "oracle", row["gap"]))


def columns(
    rows: list[table.Row], scenarios: list[str], kind: table.Columns
) -> list[tuple[str, list[str]]]:
    """The printed table."""
    cell = lambda row, name: table.cell(row, name, kind, gap=False)
    gaps = [(name, [cell(row, f"gap: {name}") for row in rows]) for name in scenarios]
    return [
        ("method", [table.name_cell(row) for row in rows]),
        *gaps,
        ("mean", [cell(row, "gap") for row in rows]),
        ("time", [f"{row['seconds_ratio']:.2g}x" for row in rows]),
    ]


def report(
    config: ConfigDict, run: runner.Run, rows: list[table.Row], scenarios: list[str]
) -> None:
    """Table, files and the frontier of gap against time."""
    evaluation = evaluations.of(config)
    title = f"Leaderboard: {config.dataset} ({config.model.name})"
    lead = (
        f"Gap to the oracle in points ({config.rank}: {evaluation.gap.ranks[config.rank]}), mean ± "
        f"standard deviation over {config.num_seeds} seeds, for each forget set; nearest first. "
        "Time as a multiple of retraining. The oracle's own row is the spread between oracles: a "
        "gap as small as that is as good as it can be."
    )
    cells = columns(rows, scenarios, evaluation.columns)
    marks = table.marks_mean(evaluation.columns)
    stars = {mark: meaning for mark, meaning in marks.items() if mark == "*"}
    figure = html.figure_png(plots.frontier(rows))
    page = html.page(
        title,
        lead,
        cells,
        {"Gap against time; the line joins the methods that none beats in both.": figure},
        {name: f"{config.rank} with {name} forgotten" for name in scenarios} | stars,
        {"Configuration": config.to_yaml()},
    )
    run.write_results(rows, rows, page, {"scenarios": scenarios})
    run.write_figures({"frontier": figure})
    if parallel.is_main_process():
        table.print_columns(
            cells, title, "gap in points, mean ± std over seeds; x oracle; * sensitive"
        )
        print(f"report: {run.workdir / 'report.html'}")
