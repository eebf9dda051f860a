"""Rows of results to a summary: mean and spread over seeds, gap to the oracle, cost ratios."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

Row = dict[str, float | int | str]

# What a request costs, by its share of retraining: column of the row, name in the table.
COSTS = {"seconds": "time", "flops": "FLOPs", "peak_bytes": "memory"}
# Other costs: compiling, and what was done and is kept before any request.
OTHER_COSTS = {
    "compile_seconds": "compiling",
    "init_seconds": "time before",
    "init_flops": "FLOPs before",
    "memory_bytes": "kept",
}

# A method is sensitive where a column that says so spreads by more than this.
SENSITIVE = 0.05
# Of the original's distance to the oracle on the forget set, where there is one to speak of.
UNCHANGED, TO_FORGET = 0.8, 0.05


class Columns(NamedTuple):
    """The columns of a modality's rows: what they mean, and what is made of them.

    Attributes:
      definitions: of every column that the rows may have, for the report.
      printed: what is printed of a run, where its rows have it.
      units: `(header, what to multiply by, digits after the point)`; else the column's name, 1, 2.
      plain: printed without the difference to the oracle.
      spreading: a method is sensitive where one of these spreads by more than `SENSITIVE`.
      forgotten: where one of these is no nearer to the oracle than the original's, a method did not
        forget.
      collapsed: by how much a column may change from the oracle's and the original's value before
        the model counts as broken; the sign is the direction of worse.
    """

    definitions: Mapping[str, str] = MappingProxyType({})
    printed: Sequence[str] = ()
    units: Mapping[str, tuple[str, float, int]] = MappingProxyType({})
    plain: Sequence[str] = ()
    spreading: Sequence[str] = ()
    forgotten: Sequence[str] = ()
    collapsed: Mapping[str, float] = MappingProxyType({})


def marks_mean(kind: Columns) -> dict[str, str]:
    """What the marks beside a method's name mean, of those that the modality has."""
    meant = {}
    if kind.spreading:
        meant["*"] = (
            f"sensitive: {' or '.join(kind.spreading)} spreads by more than {SENSITIVE:g} over "
            "seeds and perturbed originals; do not rely on one run"
        )
    if kind.forgotten:
        meant["(did not forget)"] = (
            f"{' or '.join(kind.forgotten)} is still four fifths or more of the original's "
            "distance away from the oracle's"
        )
    if kind.collapsed:
        limits = " or ".join(
            f"{name} is more than {abs(limit):g} {'below' if limit < 0 else 'above'}"
            for name, limit in kind.collapsed.items()
        )
        meant["(collapsed)"] = f"{limits} both the oracle's and the original's"
    return meant


def verdicts(summary: Sequence[Row], kind: Columns) -> dict[str, str]:
    """What is wrong with a method at first sight: 'did not forget' or 'collapsed', if anything."""
    original = next((row for row in summary if row["method"] == "original"), {})
    found = {}
    for row in (row for row in summary if row["method"] != "original"):
        lost = [
            min(gap, gap - original.get(f"{k}_gap", 0.0) / limit)
            for k, limit in kind.collapsed.items()
            for gap in [row.get(f"{k}_gap", 0.0) / limit]
        ]
        left = [
            row.get(f"{k}_gap", 0.0) / original[f"{k}_gap"]
            for k in kind.forgotten
            if abs(original.get(f"{k}_gap", 0.0)) > TO_FORGET
        ]
        if any(share > 1 for share in lost):
            found[row["method"]] = "collapsed"
        elif any(share >= UNCHANGED for share in left):
            found[row["method"]] = "did not forget"
    return found


def summarise_rows(
    rows: Sequence[Row], kind: Columns, reference: str | None = "oracle"
) -> list[Row]:
    """One row per method from one per (method, seed), in the order in which methods appear.

    Every number becomes `<name>` (mean over seeds, and over perturbed originals where a seed has
    several rows) and `<name>_std` (sample standard deviation, NaN for one row). `<name>_gap` is the
    mean's difference to the mean of `reference`; for costs, `<name>_ratio` is the share of the
    reference's; NaN of a `reference` of `None`. `sensitive` says whether one of `kind.spreading`
    spreads by more than `SENSITIVE`.

    Raises:
      ValueError: if no row is of the method `reference`.

    Examples:
      >>> accuracies = {"oracle": 0.9, "ssd": 0.8}
      >>> rows = [{"method": name, "test_accuracy": a} for name, a in accuracies.items()]
      >>> round(summarise_rows(rows, Columns())[1]["test_accuracy_gap"], 3)
      -0.1
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    if reference is not None and reference not in methods:
        raise ValueError(f"rows must hold the method {reference!r} to compare with, got {methods}")
    means = {}
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        labels = ("seed", "perturbed")
        names = [k for k, v in own[0].items() if isinstance(v, int | float) and k not in labels]
        values = {k: np.array([row[k] for row in own], float) for k in names}
        seeds = {row.get("seed", number) for number, row in enumerate(own)}
        means[method] = {"method": method, "num_seeds": len(seeds)}
        for name, value in values.items():
            means[method][name] = float(value.mean())
            spread = value.std(ddof=1) if len(value) > 1 else float("nan")
            means[method][f"{name}_std"] = float(spread)
        spreads = [means[method].get(f"{name}_std", 0.0) for name in kind.spreading]
        means[method]["sensitive"] = any(spread > SENSITIVE for spread in spreads)
    base = {} if reference is None else means[reference]
    for row in means.values():
        for name in [n for n in row if f"{n}_std" in row]:
            if name in COSTS:
                row[f"{name}_ratio"] = row[name] / base[name] if base.get(name) else float("nan")
            else:
                row[f"{name}_gap"] = row[name] - base[name] if name in base else float("nan")
    return list(means.values())


def name_cell(row: Row) -> str:
    """The method's name, with a star if it is sensitive."""
    return f"{row['method']} *" if row.get("sensitive") else str(row["method"])


def cell(row: Row, name: str, kind: Columns, gap: bool = True) -> str:
    """`mean ± std` of a column in its unit, with the gap to the oracle in brackets."""
    _, scale, digits = kind.units.get(name.partition(":")[0], ("", 1, 2))
    value, std, off = (row.get(k, float("nan")) for k in (name, f"{name}_std", f"{name}_gap"))
    if np.isnan(value):
        return "–"
    text = f"{scale * value:.{digits}f}"
    if not np.isnan(std):
        text += f" ± {scale * std:.{digits}f}"
    if gap and row["method"] != "oracle" and not np.isnan(off):
        text += f" ({round(scale * off, digits) + 0.0:+.{digits}f})"  # + 0.0: no "-0.0"
    return text


def cost_cell(row: Row, name: str) -> str:
    """A cost in a readable unit, with its share of retraining in brackets."""
    value, ratio = row.get(name, float("nan")), row.get(f"{name}_ratio", float("nan"))
    if np.isnan(value):
        return "–"
    if name.endswith("seconds"):
        text = f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
    else:
        unit = "FLOP" if name.endswith("flops") else "B"
        prefixes = ("", "k", "M", "G", "T", "P")
        power = min(int(np.log10(max(value, 1))) // 3, len(prefixes) - 1)
        text = f"{value / 1000**power:.3g} {prefixes[power]}{unit}"
    return text if np.isnan(ratio) else f"{text} ({ratio:.2g}x)"


def columns(
    summary: Sequence[Row], kind: Columns, extra: Sequence[str] = ()
) -> list[tuple[str, list[str]]]:
    """The printed table: (header, one cell per row) of `kind.printed`, `extra` and the time.

    What no row has a number for, as it does not apply to what was forgotten, is left out. Beside a
    method's name stands what is wrong with it, see `verdicts`.
    """
    wrong = verdicts(summary, kind)
    marks = [f" ({wrong[row['method']]})" if row["method"] in wrong else "" for row in summary]
    names = [name_cell(row) + mark for row, mark in zip(summary, marks, strict=True)]
    table = [("method", names)]
    for name in (*kind.printed, *extra):
        if not all(np.isnan(row.get(name, np.nan)) for row in summary):
            header = kind.units[name][0] if name in kind.units else name
            table.append((header, [_in_its_unit(row, name, kind) for row in summary]))
    return [*table, (COSTS["seconds"], [cost_cell(row, "seconds") for row in summary])]


def _in_its_unit(row: Row, name: str, kind: Columns) -> str:
    if name in COSTS | OTHER_COSTS or name.startswith("init_"):
        return cost_cell(row, name)
    return cell(row, name, kind, gap=name not in kind.plain)


def cost_columns(summary: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The table of costs: (header, one cell per row) of `COSTS` and `OTHER_COSTS`."""
    return [
        ("method", [str(row["method"]) for row in summary]),
        *(
            (header, [cost_cell(row, name) for row in summary])
            for name, header in (COSTS | OTHER_COSTS).items()
            if any(name in row for row in summary)
        ),
    ]


def print_table(
    summary: Sequence[Row], kind: Columns, title: str, extra: Sequence[str] = ()
) -> None:
    """The table in the terminal."""
    caption = "mean ± std over seeds; (difference to the oracle); (x oracle); * sensitive"
    print_columns(columns(summary, kind, extra), title, caption)


def print_columns(cells: Sequence[tuple[str, Sequence[str]]], title: str, caption: str) -> None:
    """(header, cells) columns in the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for header, _ in cells:
        table.add_column(header, no_wrap=header == "method")
    for row in zip(*(column for _, column in cells), strict=True):
        table.add_row(*row)
    # Piped output has no width of its own; a table folded at 80 columns cannot be read.
    console = Console(emoji=False)
    (console if console.is_terminal else Console(width=240, emoji=False)).print(table)


def markdown(cells: Sequence[tuple[str, Sequence[str]]]) -> str:
    """(header, cells) columns as a Markdown table, as README and docs show it.

    Examples:
      >>> print(markdown([("method", ["ssd", "scrub"]), ("gap", ["0.1", "0.3"])]), end="")
      | method | gap |
      | --- | --- |
      | ssd | 0.1 |
      | scrub | 0.3 |
    """
    lines = ["| " + " | ".join(header for header, _ in cells) + " |"]
    lines.append("|" + " --- |" * len(cells))
    for row in zip(*(column for _, column in cells), strict=True):
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def write_csv(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Rows as CSV with a `method` column; columns are the union over rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: str | os.PathLike, value: object) -> None:
    """JSON written whole or not at all; NaN and infinity become null."""
    path = Path(path)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(_without_nan(value), indent=1) + "\n")
    os.replace(temporary, path)


def with_nan(row: Row) -> Row:
    """A row as `write_json` was given it: null is NaN again."""
    return {name: float("nan") if value is None else value for name, value in row.items()}


def _without_nan(value):
    if isinstance(value, dict):
        return {str(k): _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value
