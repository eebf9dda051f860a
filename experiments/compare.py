"""Several finished runs in one table.

    python -m experiments.compare RUN_A RUN_B ... [--workdir=OUT]

Runs are work directories of experiments.unlearn (or `results.json` files). Prints one table; with
--workdir it also writes `compare.csv`, `compare.json` and `compare.html` there. Gaps and ratios are
to each run's own oracle. In Python: `unlearnjax.report.load_results(RUN_A, RUN_B)`.
"""

import sys
from pathlib import Path

from absl import app, flags

from experiments.common import runner  # noqa: F401, for --workdir
from experiments.common import workdir as workdir_lib
from unlearnjax.report import html, results, table


def merged(runs: list[str]) -> tuple[list[table.Row], list[str]]:
    """Summaries of all runs with the column 'run', and in what their problems differ.

    Raises:
      ValueError: if there are fewer than two, or one is no finished run with a table of methods.
    """
    if len(runs) < 2:
        raise ValueError(f"name at least two runs to compare, got {runs}")
    names, found = results.run_names(tuple(runs)), [results.read(run) for run in runs]
    rows, differences = [], []
    for name, result in zip(names, found, strict=True):
        summary = result.get("summary") or []
        if not any("test_accuracy" in row or "test_error" in row for row in summary):
            raise ValueError(
                f"run {name} has no table of methods (experiment "
                f"{result.get('experiment')!r}); runs of experiments.unlearn can be compared"
            )
        rows += [{"run": name, **table.with_nan(row)} for row in summary]
        lines = workdir_lib.differences(found[0]["config"], result["config"])
        differences += [f"{name}: {line}" for line in lines if not line.startswith(_METHODS)]
    return rows, differences


# What may differ without making another problem of it.
_METHODS = ("config.methods", "config.unlearn", "config.columns", "config.num_seeds")


def cells(rows: list[table.Row]) -> list[tuple[str, list[str]]]:
    """The table: of which run, then the columns of a run."""
    return [("run", [row["run"] for row in rows]), *table.columns(rows)]


def main(argv: list[str]) -> None:
    try:
        rows, differences = merged(argv[1:])
        write(rows, differences, len(argv) - 1)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def write(rows: list[table.Row], differences: list[str], count: int) -> None:
    """The table in the terminal, and in files of `--workdir` if it is given."""
    title = f"{count} runs"
    caption = "mean ± std over seeds; (difference to the run's oracle); (x oracle)"
    table.print_columns(cells(rows), title, caption)
    notes = [f"another problem than the first run's, {line}" for line in differences]
    for note in notes:
        print("note:", note)
    if flags.FLAGS.workdir is not None:
        workdir = Path(flags.FLAGS.workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        table.write_csv(workdir / "compare.csv", rows)
        table.write_json(workdir / "compare.json", {"rows": rows, "differences": differences})
        page = html.page(title, caption, cells(rows), {}, {}, {}, notes)
        html.write(workdir / "compare.html", page)
        print(f"report: {workdir / 'compare.html'}")


if __name__ == "__main__":
    app.run(main)
