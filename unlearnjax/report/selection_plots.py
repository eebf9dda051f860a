"""Figures of what was selected."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS


def gaps(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str) -> Figure:
    """A matrix as a heat map with its numbers.

    Args:
      values: `[rows, columns]`.
      rows, columns: their names.
      label: of the numbers, with the unit.
    """
    height, width = 0.36 * len(rows) + 2.2, 0.62 * len(columns) + 2.6
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(values, cmap="cividis_r", aspect="auto", vmin=0)
    bright = np.nanmax(values) / 2
    for (i, j), value in np.ndenumerate(values):
        look = {"ha": "center", "va": "center", "fontsize": 8}
        ax.text(j, i, f"{value:.1f}", color="white" if value > bright else "black", **look)
    ax.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=9)
    ax.set_yticks(range(len(rows)), rows, fontsize=9)
    figure.colorbar(image, label=label)
    return figure


def images(examples: Mapping[str, tuple[np.ndarray, np.ndarray]], per_row: int = 16) -> Figure:
    """A row of pictures per set, with their labels.

    Args:
      examples: `{set: (images [n, H, W, C], labels [n])}`.
      per_row: how many are shown.
    """
    figure = Figure(figsize=(0.62 * per_row + 2, 0.8 * len(examples)), layout="constrained")
    axes = figure.subplots(len(examples), per_row, squeeze=False)
    for row, (name, (pictures, labels)) in zip(axes, examples.items(), strict=True):
        for ax in row:
            ax.axis("off")
        for ax, picture, label in zip(row, pictures, labels, strict=False):
            low, high = picture.min(), picture.max()
            shown = (picture - low) / max(high - low, 1e-12)
            shown = shown[..., 0] if shown.shape[-1] == 1 else shown
            ax.imshow(shown, cmap="gray_r", interpolation="nearest")
            ax.set_title(str(label), fontsize=7, pad=1)
        row[0].text(
            -0.2, 0.5, name, transform=row[0].transAxes, ha="right", va="center", fontsize=9
        )
    return figure


def composition(classes: Mapping[str, np.ndarray], losses: Mapping[str, np.ndarray]) -> Figure:
    """Which classes each set holds, and how the original's losses on it are distributed.

    Args:
      classes: `{set: [C] shares}`.
      losses: `{set: [n]}`.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    number = len(next(iter(classes.values())))
    width = 0.8 / len(classes)
    for i, (name, shares) in enumerate(classes.items()):
        places = np.arange(number) + (i - (len(classes) - 1) / 2) * width
        left.bar(places, 100 * shares, width, color=COLORS[i % len(COLORS)], label=name)
        values = np.sort(np.maximum(losses[name], 1e-6))
        shares_below = np.arange(1, len(values) + 1) / len(values)
        right.plot(values, shares_below, color=COLORS[i % len(COLORS)], label=name)
    left.axhline(100 / number, color="black", linewidth=0.8, linestyle=":")
    left.set_xlabel("class")
    left.set_xticks(range(number))
    left.set_ylabel("% of the set")
    right.set_xscale("log")
    right.set_xlabel("loss of the original (nats)")
    right.set_ylabel("share of the set below")
    right.grid(alpha=0.3)
    right.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
