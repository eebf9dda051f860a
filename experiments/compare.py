"""Several finished runs in one table.

    python -m experiments.compare RUN_A RUN_B ... [--workdir=OUT]

Runs are work directories of experiments.unlearn (or `results.json` files). Prints one table; with
--workdir it also writes `compare.csv`, `compare.json` and `compare.html` there. Gaps and ratios are
to each run's own oracle. In Python: `unlearnjax.report.load_results(RUN_A, RUN_B)`.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from experiments.common import (
    evaluations,
    runner,  # noqa: F401, for --workdir
)
from experiments.common import workdir as workdir_lib
from unlearnjax.report import html, results, table

# What may differ without making another problem of it.
_METHODS = ("config.methods", "config.unlearn", "config.columns", "config.num_seeds")


class Merged(NamedTuple):
    """Several runs: their rows, with the column 'run', the table of these, and in what they differ.

    Attributes:
      rows: of all summaries.
      cells: (header, one cell per row); a dash where a run has no such column.
      differences: between the problems of the first run and of another, one line each.
    """

    rows: list[table.Row]
    cells: list[tuple[str, list[str]]]
    differences: list[str]


def merged(runs: list[str]) -> Merged:
    """The summaries of all runs in one table, each made as its own evaluation says.

    Raises:
      ValueError: if there are fewer than two, or one is no finished run with a table of methods.
    """
    if len(runs) < 2:
        raise ValueError(f"name at least two runs to compare, got {runs}")
    names, found = results.run_names(tuple(runs)), [results.read(run) for run in runs]
    rows, tables, differences = [], [], []
    for name, result in zip(names, found, strict=True):
        own = [{"run": name, **table.with_nan(row)} for row in result.get("summary") or []]
        kind = evaluations.of(result["config"]).columns
        if not any(column in row for row in own for column in kind.printed):
            raise ValueError(
                f"run {name} has no table of methods (experiment "
                f"{result.get('experiment')!r}); runs of experiments.unlearn can be compared"
            )
        rows += own
        tables.append({"run": [name] * len(own), **dict(table.columns(own, kind))})
        lines = workdir_lib.differences(found[0]["config"], result["config"])
        differences += [f"{name}: {line}" for line in lines if not line.startswith(_METHODS)]
    return Merged(rows, joined(tables), differences)


def joined(tables: list[dict[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Tables one below the other; what all have last, the time, stays last."""
    headers = list(dict.fromkeys(header for own in tables for header in own))
    headers.sort(key=lambda header: header == table.COSTS["seconds"])
    return [
        (
            header,
            [cell for own in tables for cell in own.get(header, ["–"] * len(own["run"]))],
        )
        for header in headers
    ]


def main(argv: list[str]) -> None:
    try:
        write(merged(argv[1:]), len(argv) - 1)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def write(found: Merged, count: int) -> None:
    """The table in the terminal, and in files of `--workdir` if it is given."""
    title = f"{count} runs"
    caption = "mean ± std over seeds; (difference to the run's oracle); (x oracle)"
    table.print_columns(found.cells, title, caption)
    notes = [f"another problem than the first run's, {line}" for line in found.differences]
    for note in notes:
        print("note:", note)
    if flags.FLAGS.workdir is not None:
        workdir = Path(flags.FLAGS.workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        table.write_csv(workdir / "compare.csv", found.rows)
        table.write_json(
            workdir / "compare.json", {"rows": found.rows, "differences": found.differences}
        )
        page = html.page(title, caption, found.cells, {}, {}, {}, notes)
        html.write(workdir / "compare.html", page)
        print(f"report: {workdir / 'compare.html'}")


if __name__ == "__main__":
    app.run(main)
