"""Figures of backdoors: class shares epoch by epoch, triggers that were recovered."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS, ORACLE_COLOR


def shares(curves: Mapping[str, Mapping[str, np.ndarray]], label: int) -> Figure:
    """A panel per model: the share of every class among its predictions, epoch by epoch.

    Args:
      curves: `{model: {'shares': [E, C], 'accuracy': [E], 'attack': [E]}}`.
      label: the class that the attack wants, set off from the others.
    """
    figure = Figure(figsize=(4.6 * len(curves), 3.4), layout="constrained")
    axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for ax, (name, values) in zip(axes, curves.items(), strict=True):
        epochs = np.arange(1, len(values["shares"]) + 1)
        for number, share in enumerate(values["shares"].T):
            own = number == label
            look = {"color": COLORS[1], "linewidth": 2} if own else {"color": "#bbbbbb"}
            text = f"class {label}, the attack's" if own else "other classes"
            ax.plot(epochs, share, zorder=3 if own else 2, label=text, **look)
        ax.plot(epochs, values["accuracy"], color=COLORS[0], label="accuracy")
        ax.plot(epochs, values["attack"], color=ORACLE_COLOR, linestyle="--", label="attack")
        ax.set_title(name)
        ax.set_xlabel("epoch")
        ax.set_ylim(-0.02, 1.02)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("share")
    handles = dict(zip(*axes[-1].get_legend_handles_labels()[::-1], strict=True))
    axes[-1].legend(
        handles.values(),
        handles.keys(),
        fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1, 1),
        frameon=False,
    )
    return figure


def recovered(triggers: Mapping[str, np.ndarray], support: np.ndarray, label: int) -> Figure:
    """A row per model, a column per class: what is found for it; the last column is the truth.

    Args:
      triggers: `{model: [C, H, W, K]}` in [0, 1], K = 1 or 3.
      support: `[H, W]` bool, the pixels that the trigger changes.
      label: the class that the attack wants.
    """
    classes = len(next(iter(triggers.values())))
    shape = (len(triggers), classes + 1)
    figure = Figure(figsize=(0.8 * shape[1] + 1.6, 0.85 * shape[0] + 0.4), layout="constrained")
    axes = figure.subplots(*shape, squeeze=False)
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    for row, (name, images) in zip(axes, triggers.items(), strict=True):
        for number, (ax, image) in enumerate(zip(row, [*images, support[..., None]], strict=True)):
            single = image.shape[-1] == 1
            ax.imshow(image[..., 0] if single else image, **grey if single else {})
            ax.set_xticks([])
            ax.set_yticks([])
            if number == label:
                for side in ax.spines.values():
                    side.set(color=COLORS[1], linewidth=2.5)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for number, ax in enumerate(axes[0]):
        ax.set_title(str(number) if number < classes else "trigger", fontsize=8)
    return figure
