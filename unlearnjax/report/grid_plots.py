"""What models answer on a grid of styles and objects: images, shares and sequences."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS


def answers(
    images: Mapping[str, np.ndarray],
    styles: Sequence[str],
    objects: Sequence[str],
    forgotten: np.ndarray,
) -> Figure:
    """One image of each cell by every model, from the same noise in the same cell.

    Args:
      images: `{model: [S, O, H, W, 3]}` bytes.
      styles, objects: S and O names.
      forgotten: `[S, O]`, which cells are set off.
    """
    figure, axes = _panels(len(images), len(objects) / len(styles))
    for ax, (name, own) in zip(axes, images.items(), strict=False):
        rows, columns, height, width, _ = own.shape
        sheet = own.swapaxes(1, 2).reshape(rows * height, columns * width, -1)
        ax.imshow(sheet, interpolation="nearest", aspect="equal", extent=(0, columns, rows, 0))
        for line in range(1, columns):
            ax.axvline(line, color="white", linewidth=1)
        for line in range(1, rows):
            ax.axhline(line, color="white", linewidth=1)
        _mark(ax, forgotten, 0.0)
        _name(ax, name, styles, objects, 0.5)
    return figure


def heat_maps(
    shares: Mapping[str, np.ndarray],
    styles: Sequence[str],
    objects: Sequence[str],
    forgotten: np.ndarray,
) -> Figure:
    """A share in [0, 1] for each cell by every model, dark where it is low.

    Args:
      shares: `{model: [S, O]}`; NaN is left blank.
      styles, objects: S and O names.
      forgotten: `[S, O]`, which cells are set off.
    """
    figure, axes = _panels(len(shares), len(objects) / len(styles))
    for ax, (name, own) in zip(axes, shares.items(), strict=False):
        ax.imshow(own, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(own):
            if np.isfinite(value):
                shade = "white" if value < 0.6 else "black"
                text = f"{100 * value:.0f}"
                ax.text(column, row, text, ha="center", va="center", fontsize=6, color=shade)
        _mark(ax, forgotten, -0.5)
        _name(ax, name, styles, objects, 0.0)
    return figure


def frontier(points: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """What is forgotten against what is kept, a point for each seed of every method.

    Args:
      points: `{method: [(unlearning accuracy, retained accuracy)]}`, in [0, 1].
    """
    figure = Figure(figsize=(5.5, 4.2), layout="constrained")
    ax = figure.subplots()
    for number, (name, own) in enumerate(points.items()):
        x, y = 100 * np.asarray(own, float).T
        marker = {"oracle": "*", "original": "X"}.get(name, "osD^v"[number // len(COLORS) % 5])
        color = COLORS[number % len(COLORS)]
        ax.scatter(x, y, s=120 if name == "oracle" else 45, marker=marker, color=color, label=name)
    ax.set_xlabel("unlearning accuracy (%)")
    ax.set_ylabel("retained accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def triangles(
    accuracies: Mapping[str, np.ndarray], retained: Mapping[str, np.ndarray], names: Sequence[str]
) -> Figure:
    """After each request of a sequence: how well each one before is forgotten, and what is kept.

    Args:
      accuracies: `{method: [K, K]}` unlearning accuracies, NaN above the diagonal.
      retained: `{method: [K]}` retained accuracies, as a last column.
      names: K of what was requested.
    """
    number = len(names)
    figure, axes = _panels(len(accuracies), (number + 1) / number)
    for ax, (name, own) in zip(axes, accuracies.items(), strict=False):
        table = np.concatenate([own, retained[name][:, None]], axis=1)
        ax.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            if np.isfinite(value):
                shade = "white" if value < 0.6 else "black"
                ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=shade)
        ax.axvline(number - 0.5, color="white", linewidth=3)
        _name(ax, name, [f"after {own}" for own in names], [*names, "retained"], 0.0)
    return figure


def _panels(number: int, ratio: float) -> tuple[Figure, np.ndarray]:
    """Axes of so many models, two side by side, each `ratio` times as wide as it is high."""
    columns = min(number, 2)
    rows = -(-number // columns)
    width = 4.6
    figure = Figure(figsize=(width * columns, (width / ratio + 0.7) * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[number:]:
        ax.set_axis_off()
    return figure, axes


def _mark(ax, forgotten: np.ndarray, offset: float) -> None:
    """A frame around each forgotten cell, without lines between two of them."""
    inside = np.pad(np.asarray(forgotten, bool), 1)
    line = {"color": COLORS[1], "linewidth": 2, "zorder": 3}
    for row, column in np.argwhere(inside):
        x, y = column - 1 + offset, row - 1 + offset
        for dy in (0, 1):
            if not inside[row - 1 + 2 * dy, column]:
                ax.plot([x, x + 1], [y + dy, y + dy], **line)
        for dx in (0, 1):
            if not inside[row, column - 1 + 2 * dx]:
                ax.plot([x + dx, x + dx], [y, y + 1], **line)


def _name(ax, name: str, rows: Sequence[str], columns: Sequence[str], offset: float) -> None:
    ax.set_title(name, fontsize=9)
    ax.set_yticks(np.arange(len(rows)) + offset, rows, fontsize=7)
    ax.set_xticks(np.arange(len(columns)) + offset, columns, fontsize=7, rotation=45)
    ax.tick_params(length=0)
