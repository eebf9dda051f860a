"""Runs a published row again and compares it with what is published.

    python -m experiments.reproduce --row=digits_convnet/ssd --workdir=/tmp/reproduce

A row is FILE/METHOD (of a stream FILE/STREAM/METHOD) for `docs/results/FILE.json`, which holds the
configuration of its run. Every number is compared within a band: three standard deviations over the
published seeds and perturbed originals, and one point (0.01), so that another machine's rounding
passes and another result does not. The exit status is 1 if a number falls outside.
"""

import json
from collections.abc import Sequence

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import continual, datamodel, unlearn, worst_case
from experiments.common import evaluations, runner
from experiments.publish import RESULTS
from unlearnjax import checks, parallel
from unlearnjax.report import table

KLOMS = ("klom", "klom_forget", "klom_retain", "klom_test")
# Of other experiments than unlearn, whose are those of the evaluation.
COMPARED = (
    "incremental_accuracy",
    "forgetting",
    "unlearned_accuracy",
    "retained_accuracy",
    "agreement",
    "training_lds",
    "test_lds",
    *KLOMS,
    "u_lira_auc",
    "rmia_auc",
)
STORIES = {
    "unlearn": unlearn.story,
    "continual": continual.story,
    "datamodel": datamodel.story,
    "worst_case": worst_case.story,
}
SLACK = 0.01
KLOM_SLACK = 0.1  # nats; differently rounded trainings are other trainings

_ROW = flags.DEFINE_string("row", None, "FILE/METHOD of docs/results, e.g. digits_convnet/ssd.")


def stored(row: str | None) -> tuple[dict, str]:
    """The published results that `FILE/NAME` names, and the name of the row in it.

    Raises:
      ValueError: if there is no such row; it says which there are.
    """
    files = {path.stem: path for path in sorted(RESULTS.glob("*.json"))}
    file, _, wanted = (row or "").partition("/")
    if file not in files:
        raise ValueError(
            f"row must be FILE/METHOD with FILE one of {sorted(files)}, got {row!r}"
            + checks.near([file], files)
        )
    results = json.loads(files[file].read_text())
    names = [name(r) for r in results["summary"]]
    if wanted not in names:
        raise ValueError(
            f"row must be {file}/METHOD with METHOD one of {names}, got {row!r}"
            + checks.near([wanted], names)
        )
    return results, wanted


def name(row: table.Row) -> str:
    """METHOD, STREAM/METHOD or ATTRIBUTOR."""
    if "attributor" in row:
        return row["attributor"]
    return f"{row['stream']}/{row['method']}" if "stream" in row else row["method"]


def load() -> ConfigDict:
    """The configuration of the published run, for that row alone."""
    results, wanted = stored(_ROW.value)
    config = ConfigDict(results["config"], convert_dict=True)
    if "rounding" not in config:  # published before it was
        config.rounding = {"num_perturbed": 0, "size": 0.0, "num_seeds": 0}
    if results["experiment"] == "datamodel":
        row = next(row for row in results["summary"] if name(row) == wanted)
        config.attributors = [wanted] if "attributor" in row else []
        config.methods = [wanted] if "method" in row else []
        if wanted in ("oracle", "original"):  # they come with every method; this one is the fastest
            config.methods = ["dm_direct"]
        return config
    if results["experiment"] == "worst_case":
        config.methods = [wanted] if wanted in config.methods else config.methods[:1]
        return config
    stream, _, method = wanted.rpartition("/")
    config.methods = [] if method in ("oracle", "original") else [method]
    if stream:
        config.streams = [stream]
    return config


def story(config: ConfigDict, run: runner.Run) -> None:
    """Runs, compares, and fails if a number is off."""
    results, wanted = stored(_ROW.value)
    STORIES[results["experiment"]](config, run)
    if not parallel.is_main_process():
        return
    again = json.loads((run.workdir / "results.json").read_text())
    published, measured = (
        next(row for row in r["summary"] if name(row) == wanted) for r in (results, again)
    )
    own = (*evaluations.of(config).reproduced, *COMPARED)
    lines = compare(published, measured, own)
    cells = [
        ("column", [line["column"] for line in lines]),
        ("published", [f"{line['published']:.4f}" for line in lines]),
        ("measured", [f"{line['measured']:.4f}" for line in lines]),
        ("band", [f"± {line['band']:.4f}" for line in lines]),
        ("within", ["yes" if line["within"] else "NO" for line in lines]),
    ]
    table.print_columns(
        cells,
        f"{_ROW.value}",
        "band: 3 standard deviations over seeds and perturbed originals + 0.01",
    )
    outside = [line["column"] for line in lines if not line["within"]]
    if outside:
        raise ValueError(f"{_ROW.value} is not reproduced: {', '.join(outside)} outside the band")


def compare(published: table.Row, measured: table.Row, columns: Sequence[str]) -> list[dict]:
    """One line for each of `columns` and every gap: both values, the band, whether they agree."""
    lines = []
    for column, value in published.items():
        own = column in columns or column == "gap" or column.startswith("gap: ")
        if not own or column.endswith("_std") or value is None:
            continue
        other = float("nan") if measured.get(column) is None else measured[column]
        width = band(published, column)
        lines.append(
            {
                "column": column,
                "published": value,
                "measured": other,
                "band": width,
                "within": abs(other - value) <= width,
            }
        )
    return lines


def band(published: table.Row, column: str) -> float:
    """How far a number may be off; of a mean over scenarios, by their mean spread."""
    if column in KLOMS:
        return KLOM_SLACK
    columns = [column]
    if column == "gap":
        columns = [c for c in published if c.startswith("gap: ") and not c.endswith("_std")]
    spreads = [published.get(f"{c}_std") or 0.0 for c in columns]
    return SLACK + 3 * float(np.mean(spreads))


if __name__ == "__main__":
    runner.launch(story, "reproduce", load)
