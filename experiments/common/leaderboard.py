"""Several scenarios in one table: which method comes nearest to the oracle, and at what price."""

from collections.abc import Callable, Sequence
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
    rows = rank(summaries, config.rank, config.get("by_kind", ()))
    report(config, run, rows, list(summaries))


def rank(
    summaries: dict[str, list[table.Row]], column: str = "average_gap", by_kind: Sequence[str] = ()
) -> list[table.Row]:
    """One row per method, the oracle first, then by the mean of a column over scenarios.

    Columns: `gap: SCENARIO` (mean over seeds) with `_std`, `gap` and `seconds_ratio` (means over
    scenarios; of the latter geometric); and `NAME: KIND` of every NAME in `by_kind` and of
    `seconds`, means over the scenarios KIND:... with `_std` over these, where they are several.
    Where there is no oracle methods stay in their order.
    """
    rows = []
    kinds = [forget.partition(":")[0] for forget in summaries]
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
        for kind in several(kinds):
            same = [result for name, result in own.items() if name.partition(":")[0] == kind]
            for name in (*by_kind, "seconds") if by_kind else ():
                values = [result.get(name, np.nan) for result in same]
                row[f"{name}: {kind}"] = float(np.mean(values))
                row[f"{name}: {kind}_std"] = float(np.std(values, ddof=1))
        rows.append(row)
    return sorted(rows, key=lambda row: (row["method"] != "oracle", np.nan_to_num(row["gap"])))


def several(kinds: Sequence[str]) -> list[str]:
    """Those that are there more than once."""
    return [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]


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
        ("time", [_times(row["seconds_ratio"]) for row in rows]),
    ]


def _times(ratio: float) -> str:
    return f"{ratio:.2g}x" if np.isfinite(ratio) else "–"


def tables(rows: list[table.Row], kind: table.Columns) -> dict[str, list[tuple[str, list[str]]]]:
    """By kind of scenario: a table of means over those of the kind, see `rank`."""
    found = {}
    for name in [n for n in rows[0] if ": " in n and not n.startswith("gap: ")]:
        column, _, scenarios = name.partition(": ")
        if scenarios.endswith("_std"):
            continue
        own = found.setdefault(scenarios, [("method", [row["method"] for row in rows])])
        if column == "seconds":
            cells = [table.cost_cell({column: row[name]}, column) for row in rows]
            own.append((table.COSTS[column], cells))
        else:
            header = kind.units[column][0] if column in kind.units else column
            own.append((header, [table.cell(row, name, kind, gap=False) for row in rows]))
    return found


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
    by_kind = tables(rows, evaluation.columns)
    marks = table.marks_mean(evaluation.columns)
    stars = {mark: meaning for mark, meaning in marks.items() if mark == "*"}
    # Without an oracle there is no distance to plot, nor a time to be a multiple of.
    figures = {}
    if np.isfinite([row["gap"] * row["seconds_ratio"] for row in rows]).any():
        caption = "Gap against time; the line joins the methods that none beats in both."
        figures["frontier"] = caption, html.figure_png(plots.frontier(rows))
    page = html.page(
        title,
        lead,
        cells,
        dict(figures.values()),
        {name: f"{config.rank} with {name} forgotten" for name in scenarios}
        | stars
        | {name: evaluation.columns.definitions[name] for name in config.get("by_kind", ())},
        {"Configuration": config.to_yaml()},
        tables={
            f"Mean ± standard deviation over the scenarios {name}:...": own
            for name, own in by_kind.items()
        },
    )
    run.write_results(rows, rows, page, {"scenarios": scenarios})
    run.write_figures({name: figure for name, (_, figure) in figures.items()})
    if parallel.is_main_process():
        table.print_columns(
            cells, title, "gap in points, mean ± std over seeds; x oracle; * sensitive"
        )
        for name, own in by_kind.items():
            table.print_columns(own, f"{title}: {name}", "mean ± std over scenarios")
        print(f"report: {run.workdir / 'report.html'}")
