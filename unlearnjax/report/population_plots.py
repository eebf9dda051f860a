"""Figures of many models at once: unlearned ones against oracles."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from unlearnjax.report.plots import COLORS, ORACLE_COLOR
from unlearnjax.report.table import Row

STYLES = ("-", "--", ":")


def margins(oracle: np.ndarray, unlearned: Mapping[str, np.ndarray], forget: np.ndarray) -> Figure:
    """Per example the mean margin of the oracles against that of each method; diagonal is ideal.

    Args:
      oracle: `[K, N]`.
      unlearned: `{method: [M, N]}`.
      forget: positions of the forget set among the N.
    """
    width = min(4, len(unlearned))
    height = -(-len(unlearned) // width)
    figure = Figure(figsize=(3 * width, 2.9 * height + 0.4), layout="constrained")
    axes = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)
    x = oracle.mean(0)
    others = np.setdiff1d(np.arange(len(x)), forget)
    for ax, (method, values) in zip(axes.ravel(), unlearned.items(), strict=False):
        y = values.mean(0)
        ax.plot([x.min(), x.max()], [x.min(), x.max()], color=ORACLE_COLOR, linewidth=1)
        look = {"linewidth": 0, "rasterized": True}
        ax.scatter(x[others], y[others], s=5, color=COLORS[5], label="others", **look)
        ax.scatter(x[forget], y[forget], s=14, color=COLORS[1], label="forget set", **look)
        ax.set_title(method, fontsize=10)
        ax.grid(alpha=0.3)
    for ax in axes.ravel()[len(unlearned) :]:
        ax.axis("off")
    low, high = x.min(), x.max()
    axes[0, 0].set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes[0, 0].set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))
    axes[0, 0].legend(fontsize=8, loc="upper left")
    figure.supxlabel("mean margin of the oracles (nats)", fontsize=10)
    figure.supylabel("mean margin of the unlearned models (nats)", fontsize=10)
    return figure


def klom_distributions(klom: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Share of examples whose KLoM is at most x, for each part of the data.

    Args:
      klom: `{part: {method: [examples]}}`.
    """
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots(1, len(klom), sharey=True, squeeze=False)[0]
    for ax, (part, by_method) in zip(axes, klom.items(), strict=True):
        for (method, values), look in zip(by_method.items(), _looks(by_method), strict=True):
            values = np.sort(np.maximum(values, 1e-2))
            ax.plot(values, np.arange(1, len(values) + 1) / len(values), label=method, **look)
        ax.set_xscale("log")
        ax.set_xlim(0.05, 13)
        ax.set_title(part)
        ax.set_xlabel("KLoM (nats), left is better")
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("share of examples")
    axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def roc(scores: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """True against false positive rate, both log: who tells unlearned models from oracles.

    Args:
      scores: `{method: (of unlearned models, of oracles)}`, higher is likelier unlearned.
    """
    from sklearn.metrics import roc_curve

    figure = Figure(figsize=(7, 4.6), layout="constrained")
    ax = figure.subplots()
    ax.plot([1e-4, 1], [1e-4, 1], color=ORACLE_COLOR, linewidth=1, label="chance")
    for rate in (1e-3, 1e-2):
        ax.axvline(rate, color=ORACLE_COLOR, linewidth=0.8, linestyle=":")
    for (method, (positive, negative)), look in zip(scores.items(), _looks(scores), strict=True):
        labels = np.repeat([1, 0], [len(positive), len(negative)])
        false, true, _ = roc_curve(labels, np.concatenate([positive, negative]))
        ax.plot(np.maximum(false, 1e-4), np.maximum(true, 1e-4), label=method, **look)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(3e-4, 1)
    ax.set_ylim(3e-4, 1.1)
    ax.set_xlabel("false positive rate (dotted: 0.1 % and 1 %)")
    ax.set_ylabel("true positive rate, low is better")
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def klom_against_compute(rows: Sequence[Row]) -> Figure:
    """KLoM (mean over parts) of every setting tried against its cost, a panel per forget set.

    Args:
      rows: with `method`, `forget_set`, `klom`, `compute`; 'oracle' and 'original' are lines.
    """
    names = list(dict.fromkeys(row["forget_set"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    methods = [method for method in methods if method not in ("oracle", "original")]
    width = min(4, len(names))
    height = -(-len(names) // width)
    figure = Figure(figsize=(3 * width + 1.4, 2.7 * height), layout="constrained")
    axes = figure.subplots(height, width, sharex=True, sharey=True, squeeze=False)
    for ax, name in zip(axes.ravel(), names, strict=False):
        own = [row for row in rows if row["forget_set"] == name]
        for reference, style in (("oracle", ":"), ("original", "-")):
            level = next(row["klom"] for row in own if row["method"] == reference)
            ax.axhline(level, color=ORACLE_COLOR, linestyle=style, linewidth=1, label=reference)
        for method, look in zip(methods, _looks(methods), strict=True):
            tried = [row for row in own if row["method"] == method]
            x = [max(row["compute"], 1e-4) for row in tried]
            y = [row["klom"] for row in tried]
            marker = "osD"[STYLES.index(look["linestyle"])]
            ax.scatter(x, y, s=16, color=look["color"], marker=marker, label=method, alpha=0.8)
        ax.set_title(name, fontsize=10)
        ax.grid(alpha=0.3)
    for ax in axes.ravel()[len(names) :]:
        ax.axis("off")
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_yscale("log")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    figure.supxlabel("FLOPs of a request, share of training", fontsize=10)
    figure.supylabel("KLoM (nats), mean over forget, retain, test", fontsize=10)
    return figure


def _looks(methods) -> list[dict]:
    """A colour and a line style for each."""
    return [
        {"color": COLORS[i % len(COLORS)], "linestyle": STYLES[i // len(COLORS) % len(STYLES)]}
        for i in range(len(methods))
    ]
