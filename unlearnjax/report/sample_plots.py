"""Images that generators drew, side by side."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS


def grid(
    samples: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    marked: Collection[int] = (),
    num_rows: int = 3,
) -> Figure:
    """A row block per model, a column per class; the same place is the same noise everywhere.

    Args:
      samples: `{model: [R, C, H, W, K]}` bytes, R images of each class, of K = 1 or 3 channels.
      class_names: of the C columns.
      marked: columns that are set off, such as forgotten classes.
      num_rows: of the R that are shown at most.
    """
    blocks = {name: np.asarray(images)[:num_rows] for name, images in samples.items()}
    num_classes = len(class_names)
    figure = Figure(
        figsize=(0.62 * num_classes + 1.6, 0.6 * sum(map(len, blocks.values())) + 0.5),
        layout="constrained",
    )
    axes = figure.subplots(len(blocks), 1, squeeze=False)[:, 0]
    for ax, (name, images) in zip(axes, blocks.items(), strict=True):
        rows, columns, height, width, _ = images.shape
        sheet = images.swapaxes(1, 2).reshape(rows * height, columns * width, -1)
        grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if sheet.shape[-1] == 1 else {}
        ax.imshow(sheet[..., 0] if grey else sheet, interpolation="nearest", aspect="equal", **grey)
        for line in range(1, columns):
            ax.axvline(line * width - 0.5, color="white", linewidth=1.5)
        for line in range(1, rows):
            ax.axhline(line * height - 0.5, color="white", linewidth=0.5)
        for column in marked:
            box = {"ymin": 0, "ymax": 1, "facecolor": "none", "linewidth": 2}
            left, right = column * width - 0.5, (column + 1) * width - 0.5
            ax.axvspan(left, right, edgecolor=COLORS[1], zorder=3, **box)
        ax.set_yticks([])
        ax.set_xticks([])
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    axes[0].set_xticks((np.arange(num_classes) + 0.5) * width - 0.5, class_names, fontsize=8)
    axes[0].xaxis.tick_top()
    axes[0].tick_params(length=0)
    return figure
