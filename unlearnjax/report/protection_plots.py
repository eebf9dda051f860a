"""Figures of protected data."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS
from unlearnjax.report.table import Row


def accuracies(lines: Mapping[str, Mapping[float, Row]], label: str, chance: float) -> Figure:
    """Accuracy on clean test images against a number, a line each.

    Args:
      lines: `{name: {number: row}}`; rows have `clean_accuracy` and its `_std`.
      label: of the number.
      chance: the accuracy of who knows nothing.
    """
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    ax = figure.subplots()
    for line, (name, rows) in enumerate(lines.items()):
        points = sorted(rows.items())
        ax.errorbar(
            [number for number, _ in points],
            [100 * row["clean_accuracy"] for _, row in points],
            yerr=[100 * np.nan_to_num(row["clean_accuracy_std"]) for _, row in points],
            color=COLORS[line % len(COLORS)],
            marker="o",
            capsize=3,
            label=name,
        )
    ax.axhline(100 * chance, color="black", linestyle=":", linewidth=1)
    ax.set_xlabel(label)
    ax.set_ylabel("accuracy on clean test images (%)")
    ax.legend()
    return figure
