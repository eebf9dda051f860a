"""Several scenarios in one table: which method comes nearest to the oracle, and at what price."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from configs import unlearn
from experiments import build, runner
from unlearnjax import parallel
from unlearnjax.report import html, plots, table


def story(
    config: ConfigDict,
    run: runner.Run,
    scenario: Callable[[ConfigDict, runner.Run], list[table.Row]],
) -> None:
    """Runs every scenario in a directory of its own, then ranks the methods."""
    configs = {}
    for forget in config.scenarios:
        one = ConfigDict(config.to_dict() | {"forget": forget})
        one.unlearn.update(one.tuned.get(unlearn.kind_of(forget), {}))
        del one.scenarios, one.tuned, one.rank
        configs[forget] = one
        build.problem(configs[forget], run.data_dir)  # a bad one fails before the first is run
    summaries = {}
    for forget, one in configs.items():
        name = forget.replace(":", "-").replace("+", "-")
        summaries[forget] = scenario(one, run.sub(name, one))
    rows = rank(summaries)
    report(config, run, rows, list(summaries))


def rank(summaries: dict[str, list[table.Row]]) -> list[table.Row]:
    """One row per method, the oracle first, then by the mean of the average gaps.

    Columns: `average_gap: SCENARIO` (mean over seeds) with `_std`, `average_gap` and
    `seconds_ratio` (means over scenarios; of the latter geometric).
    """
    rows = []
    for method in [row["method"] for row in next(iter(summaries.values()))]:
        row = {"method": method}
        own = {
            name: next(r for r in summary if r["method"] == method)
            for name, summary in summaries.items()
        }
        for name, result in own.items():
            row[f"average_gap: {name}"] = result["average_gap"]
            row[f"average_gap: {name}_std"] = result["average_gap_std"]
        row["average_gap"] = float(np.mean([r["average_gap"] for r in own.values()]))
        ratios = [r["seconds_ratio"] for r in own.values()]
        row["seconds_ratio"] = float(np.exp(np.mean(np.log(ratios))))
        rows.append(row)
    return sorted(rows, key=lambda row: (row["method"] != "oracle", row["average_gap"]))


def columns(rows: list[table.Row], scenarios: list[str]) -> list[tuple[str, list[str]]]:
    """The printed table."""
    gaps = [
        (name, [table.cell(row, f"average_gap: {name}", gap=False) for row in rows])
        for name in scenarios
    ]
    return [
        ("method", [str(row["method"]) for row in rows]),
        *gaps,
        ("mean", [table.cell(row, "average_gap", gap=False) for row in rows]),
        ("time", [f"{row['seconds_ratio']:.2g}x" for row in rows]),
    ]


def report(
    config: ConfigDict, run: runner.Run, rows: list[table.Row], scenarios: list[str]
) -> None:
    """Table, files and the frontier of gap against time."""
    title = f"Leaderboard: {config.dataset} ({config.model.name})"
    lead = (
        "Average gap to the oracle in points (mean absolute difference of forget, retain and test "
        f"accuracy and MIA efficacy), mean ± standard deviation over {config.num_seeds} seeds, for "
        "each forget set; nearest first. Time as a multiple of retraining. The oracle's own row is "
        "the spread between oracles: a gap as small as that is as good as it can be."
    )
    cells = columns(rows, scenarios)
    figure = html.figure_png(plots.frontier(rows))
    page = html.page(
        title,
        lead,
        cells,
        {"Average gap against time; the line joins the methods that none beats in both.": figure},
        {name: f"average gap with {name} forgotten" for name in scenarios},
        {"Configuration": config.to_yaml()},
    )
    run.write_results(rows, rows, page, {"scenarios": scenarios})
    run.write_figures({"frontier": figure})
    if parallel.is_main_process():
        table.print_columns(cells, title, "average gap in points, mean ± std over seeds; x oracle")
        print(f"report: {run.workdir / 'report.html'}")
