"""Images that generators drew, side by side."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS


def grid(
    samples: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    marked: Collection[int] = (),
    num_rows: int = 2,
) -> Figure:
    """A row block per model, a column per class; the same place is the same noise everywhere.

    Args:
      samples: `{model: [R, C, H, W, K]}` bytes, R images of each class, of K = 1 or 3 channels.
      class_names: of the C columns.
      marked: columns that are set off, such as forgotten classes.
      num_rows: of the R that are shown at most.
    """
    blocks = {name: np.asarray(images)[:num_rows] for name, images in samples.items()}
    first = next(iter(blocks.values()))
    shape = first.shape[3] * first.shape[1], first.shape[2] * len(first)  # of a block, in pixels
    inch = 6 / shape[0]
    # Names stand on the left, and above the first block those of the classes.
    margin, gap, above = 0.3 + 0.08 * max(map(len, blocks)), 0.1, 0.35
    height = shape[1] * inch + gap
    whole = 6 + margin + gap, above + height * len(blocks)
    figure = Figure(figsize=whole)
    axes = [
        figure.add_axes(
            (
                margin / whole[0],
                1 - (above + height * (number + 1) - gap) / whole[1],
                6 / whole[0],
                (height - gap) / whole[1],
            )
        )
        for number in range(len(blocks))
    ]
    for ax, (name, images) in zip(axes, blocks.items(), strict=True):
        rows, columns, height, width, _ = images.shape
        sheet = images.swapaxes(1, 2).reshape(rows * height, columns * width, -1)
        grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if sheet.shape[-1] == 1 else {}
        ax.imshow(sheet[..., 0] if grey else sheet, interpolation="nearest", aspect="equal", **grey)
        for line in range(1, columns):
            ax.axvline(line * width - 0.5, color="white", linewidth=1.5)
        for line in range(1, rows):
            ax.axhline(line * height - 0.5, color="white", linewidth=1.5)
        for column in marked:
            box = {"ymin": 0, "ymax": 1, "facecolor": "none", "linewidth": 2}
            left, right = column * width - 0.5, (column + 1) * width - 0.5
            ax.axvspan(left, right, edgecolor=COLORS[1], zorder=3, **box)
        ax.set_yticks([])
        ax.set_xticks([])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    places = (np.arange(len(class_names)) + 0.5) * first.shape[3] - 0.5
    axes[0].set_xticks(places, class_names, fontsize=8)
    axes[0].xaxis.tick_top()
    axes[0].tick_params(length=0)
    return figure
