"""Makes a finished run a published one: its numbers as small JSON, its table in the documents.

    python -m experiments.publish --workdir=/tmp/unlearn --name=digits_convnet

writes `docs/results/NAME.json` (configuration, versions, rows of every seed and their summary,
rounded to five digits) and puts its table wherever README.md or docs/*.md say

    <!-- results: NAME -->
    <!-- end -->

or, of results with several tables, `<!-- results: NAME: TABLE -->`; the table `chosen` has the
methods alone that run by default, those of leaderboards are called by the kind of scenarios.

Without --workdir the tables are made again from what is published.
"""

import json
import re
import sys
from pathlib import Path

from absl import app, flags

from configs import unlearn
from experiments import continual
from experiments.common import (
    backdoor_report,
    datamodel_report,
    evaluations,
    leaderboard,
    protect_report,
    worst_case_report,
)
from unlearnjax.report import html, plots, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
DIGITS = 5
KEPT = ("schema", "experiment", "config", "environment", "sizes", "scenarios", "summary", "rows")
# Experiments with several tables: what makes them of the summary.
WITH_TABLES = {
    "backdoor": backdoor_report.tables,
    "datamodel": datamodel_report.tables,
    "protection": protect_report.tables,
    "worst_case": worst_case_report.tables,
}
CHOSEN = "chosen"
# Whose frontier the first pages show.
PICTURED = "leaderboard_digits"
MARKER = r"<!-- results: (\w+)(?:: ([^>]+?))? -->"

# --workdir is the flag of every experiment (`runner`).
_NAME = flags.DEFINE_string("name", None, "The name it is published under.")


def rounded(value):
    """Numbers to `DIGITS` significant digits, everywhere in a tree."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def publish(workdir: Path, name: str) -> None:
    """Copies the results of a run, rounded, without what is only of use in the run."""
    path = workdir / "results.json"
    if not path.exists():
        raise ValueError(
            f"workdir must be a finished run, got {workdir}, which has no results.json"
        )
    results = json.loads(path.read_text())
    small = {k: rounded(results[k]) for k in KEPT if k in results}
    if small["config"].get("source"):  # where files lie is the machine's business
        small["config"]["source"] = Path(small["config"]["source"]).name
    # Settings that were tried and not chosen stay in the run, and so do single rows of perturbed
    # originals, which the summary's spread includes.
    small["rows"] = [
        row for row in small["rows"] if row.get("chosen", True) and not row.get("perturbed")
    ]
    # The summary says it all, or there are too many seeds and sets, or models, to keep each.
    if small["rows"] == small["summary"] or small["experiment"] in ("worst_case", "backdoor"):
        del small["rows"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(small, separators=(",", ":")) + "\n")


def picture(name: str) -> None:
    """`docs/digits_frontier.png`, of the methods that run by default, and of all `..._all.png`."""
    rows = [
        table.with_nan(row) for row in json.loads((RESULTS / f"{name}.json").read_text())["summary"]
    ]
    for end, kept in (("", chosen(rows)), ("_all", rows)):
        png = html.figure_png(plots.frontier(kept))
        (ROOT / "docs" / f"digits_frontier{end}.png").write_bytes(png)


def chosen(rows: list[table.Row]) -> list[table.Row]:
    """The rows of what runs by default."""
    return [row for row in rows if row["method"] in ("oracle", "original", *unlearn.CHOSEN)]


def markdown(results: dict, part: str | None = None) -> str:
    """The table of published results, or one of several by name."""
    rows = [table.with_nan(row) for row in results["summary"]]
    if part == CHOSEN:
        rows = chosen(rows)
    kind = evaluations.of(results["config"]).columns
    if results["experiment"] == "continual":
        cells = continual.columns(rows)
    elif results["experiment"] in WITH_TABLES:
        tables = WITH_TABLES[results["experiment"]](rows)
        cells = tables[part or next(iter(tables))]
    elif "scenarios" in results and part not in (None, CHOSEN):
        cells = leaderboard.tables(rows, kind)[part]
    elif "scenarios" in results:
        cells = leaderboard.columns(rows, results["scenarios"], kind)
    else:
        cells = table.columns(rows, kind, results["config"].get("columns", ()))
    return table.markdown(cells)


def with_tables(text: str) -> str:
    """The document with every table made from its published results."""

    def fill(match):
        name, part = match[1], match[2]
        if not (RESULTS / f"{name}.json").exists():
            return match[0]  # not published yet
        results = json.loads((RESULTS / f"{name}.json").read_text())
        head = match[0].partition("\n")[0]
        return f"{head}\n\n{markdown(results, part)}\n<!-- end -->"

    return re.sub(MARKER + r"\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def documents() -> list[Path]:
    """Where tables may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main(argv: list[str]) -> None:
    workdir = flags.FLAGS.workdir
    if len(argv) > 1 or (workdir is None) != (_NAME.value is None):
        sys.exit("error: give --workdir and --name, or neither")
    if workdir is not None:
        try:
            publish(Path(workdir), _NAME.value)
        except ValueError as error:
            sys.exit(f"error: {error}")
        if _NAME.value == PICTURED:
            picture(PICTURED)
    for path in documents():
        text = path.read_text()
        if (new := with_tables(text)) != text:
            path.write_text(new)
            print(f"updated {path.relative_to(ROOT)}")


if __name__ == "__main__":
    app.run(main)
