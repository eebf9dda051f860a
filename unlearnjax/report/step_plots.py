"""Figures of how unlearning goes on: audits against the steps taken, beside what oracles score."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS, ORACLE_COLOR
from unlearnjax.report.table import Row


def by_steps(
    summary: Sequence[Row],
    runs: Mapping[str, Mapping[int, str]],
    columns: Mapping[str, str],
) -> Figure:
    """One panel for each column: methods stopped after so many steps, from the original on.

    The band is what the oracles score, mean and spread: their null. A method that passes through it
    and out again forgot by being stopped in time.

    Args:
      summary: a row per method, 'original' and 'oracle' among them, see `table.summarise_rows`.
      runs: for each method, `{steps: the name of its row}`.
      columns: what is drawn, and the label of its axis.
    """
    rows = {row["method"]: row for row in summary}
    figure = Figure(figsize=(4.2 * len(columns), 3.4), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for ax, (column, label) in zip(panels, columns.items(), strict=True):
        middle, spread = rows["oracle"][column], np.nan_to_num(rows["oracle"][f"{column}_std"])
        ax.axhspan(middle - spread, middle + spread, color=ORACLE_COLOR, alpha=0.25)
        ax.axhline(middle, color=ORACLE_COLOR, linewidth=1, label="oracle")
        for number, (method, names) in enumerate(runs.items()):
            points = {0: rows["original"], **{k: rows[name] for k, name in sorted(names.items())}}
            ax.errorbar(
                list(points),
                [row[column] for row in points.values()],
                yerr=[np.nan_to_num(row[f"{column}_std"]) for row in points.values()],
                color=COLORS[number % len(COLORS)],
                marker="o",
                capsize=3,
                label=method,
            )
        ax.set_xlabel("steps")
        ax.set_ylabel(label)
    panels[0].legend()
    return figure
