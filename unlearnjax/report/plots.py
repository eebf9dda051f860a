"""Figures of a run. Every function returns a matplotlib figure and draws nothing on screen."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from unlearnjax.report.table import Row

# Okabe and Ito's palette, told apart by colour-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
ORACLE_COLOR = "#555555"
SETS = ("forget", "retain", "test")

# So many points can have their names beside them.
MOST_NAMES = 12


def gaps(
    summary: Sequence[Row], metric: str = "accuracy", scale: float = 100, unit: str = "points"
) -> Figure:
    """Bars: a metric on each set minus the oracle's, with the spread over seeds.

    Args:
      summary: with the columns `<set>_<metric>` of `SETS`.
      metric: e.g. 'accuracy' or 'error'.
      scale: what it is multiplied by.
      unit: what that makes of it.
    """
    rows = [row for row in summary if row["method"] != "oracle"]
    oracle = next(row for row in summary if row["method"] == "oracle")
    figure = Figure(figsize=(8, 0.28 * len(rows) + 1.6), layout="constrained")
    axes = figure.subplots(1, len(SETS), sharey=True)
    for ax, name, color in zip(axes, SETS, COLORS, strict=False):
        column = f"{name}_{metric}"
        values = [scale * row[f"{column}_gap"] for row in rows]
        spread = [scale * np.nan_to_num(row[f"{column}_std"]) for row in rows]
        ax.barh(range(len(rows)), values, xerr=spread, color=color, capsize=3, height=0.6)
        oracle_spread = scale * np.nan_to_num(oracle[f"{column}_std"])
        ax.axvspan(-oracle_spread, oracle_spread, color=ORACLE_COLOR, alpha=0.25)
        ax.axvline(0, color=ORACLE_COLOR, linewidth=1)
        ax.set_title(f"{name} {metric}")
        ax.set_xlabel(f"{unit} from the oracle")
    axes[0].set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def loss_histograms(losses: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Loss distribution on each set: every method (filled) over the oracle (outline).

    Args:
      losses: `{method: {set: [N] losses}}` with the method 'oracle' among them.
    """
    methods = [method for method in losses if method != "oracle"]
    figure = Figure(figsize=(9, 1.2 * len(methods) + 0.6), layout="constrained")
    axes = figure.subplots(len(methods), len(SETS), squeeze=False, sharex="col")
    for column, name in enumerate(SETS):
        # Losses span many orders of magnitude, and log bins show both ends.
        bins = np.geomspace(1e-5, 30, 40)
        for row, method in enumerate(methods):
            ax = axes[row, column]
            color = COLORS[row % len(COLORS)]
            for key, style in (
                ("oracle", {"histtype": "step", "color": ORACLE_COLOR, "linewidth": 1.5}),
                (method, {"histtype": "stepfilled", "color": color, "alpha": 0.6}),
            ):
                values = np.clip(losses[key][name], bins[0], bins[-1])
                weights = np.full(len(values), 100 / max(len(values), 1))
                ax.hist(values, bins, weights=weights, label=key, **style)
            ax.set_xscale("log")
            if row == 0:
                ax.set_title(f"{name} set")
            if row == len(methods) - 1:
                ax.set_xlabel("loss (nats)")
            if column == 0:
                ax.set_ylabel("% of examples")
            if column == len(SETS) - 1:
                ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def trade_off(
    summary: Sequence[Row], metric: str = "accuracy", scale: float = 100, unit: str = "points"
) -> Figure:
    """Distance from the oracle on the forget set against that on the test set; colour is time.

    Both axes are linear up to a hundredth of `scale` and logarithmic beyond. Args as of `gaps`.
    """
    rows = [row for row in summary if row["method"] not in ("oracle", "original")]
    figure = Figure(figsize=(9, 5), layout="constrained")
    ax = figure.subplots()
    x = [scale * abs(row[f"forget_{metric}_gap"]) for row in rows]
    y = [scale * abs(row[f"test_{metric}_gap"]) for row in rows]
    time = [100 * row["seconds_ratio"] for row in rows]
    shade = np.log10(np.maximum(time, 1e-3))
    points = ax.scatter(x, y, c=shade, cmap="viridis", s=170, edgecolor="black", zorder=3)
    dark = shade < (shade.min() + shade.max()) / 2 if len(rows) else []
    _number(ax, x, y, rows, ["white" if d else "black" for d in dark])
    floor = 0.01 * scale
    for axis, values in (("x", x), ("y", y)):
        getattr(ax, f"set_{axis}scale")("symlog", linthresh=floor)
        getattr(ax, f"set_{axis}lim")(-0.2 * floor, 1.6 * max([*values, floor]))
    ax.grid(alpha=0.3)
    ax.set_xlabel(f"forget {metric}: {unit} from the oracle (0 is ideal)")
    ax.set_ylabel(f"test {metric}: {unit} from the oracle (0 is ideal)")
    bar = figure.colorbar(points, ax=ax, label="time, % of retraining", location="left")
    ticks = [t for t in range(-3, 5) if shade.min() <= t <= shade.max()] if len(rows) else []
    bar.set_ticks(ticks, labels=[f"{10.0**t:g}" for t in ticks])
    return figure


def _number(ax, x, y, rows: Sequence[Row], colors: Sequence[str]) -> None:
    """Numbers in the points and a list of what they are beside the axes: names would overlap."""
    for i, (x_i, y_i, color) in enumerate(zip(x, y, colors, strict=True)):
        center = {"ha": "center", "va": "center", "fontsize": 7, "color": color, "zorder": 4}
        ax.text(x_i, y_i, str(i + 1), **center)
    names = "\n".join(f"{i + 1}  {row['method']}" for i, row in enumerate(rows))
    ax.annotate(
        names,
        (1, 1),
        (8, 0),
        "axes fraction",
        "offset points",
        va="top",
        fontsize=8,
        linespacing=1.25,
    )


def frontier(rows: Sequence[Row]) -> Figure:
    """Gap against time, both log, with the frontier of methods that none beats in both.

    Args:
      rows: with `method`, `gap` (a share) and `seconds_ratio`.
    """
    oracle = [row for row in rows if row["method"] == "oracle"]
    rows = [row for row in rows if row["method"] not in ("oracle", "original")]
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    ax = figure.subplots()
    x = [row["seconds_ratio"] for row in rows]
    y = [100 * row["gap"] for row in rows]
    ax.scatter(x, y, s=170, color=COLORS[5], edgecolor="black", zorder=3)
    if len(rows) > MOST_NAMES:
        _number(ax, x, y, rows, ["black"] * len(rows))
    else:
        order = np.argsort(y)  # names of neighbours stand below and above in turn
        for i, above in zip(order, itertools.cycle((False, True)), strict=False):
            offset = (8, 6 if above else -14)
            name = rows[i]["method"]
            ax.annotate(name, (x[i], y[i]), offset, textcoords="offset points", fontsize=9)
    best, line = np.inf, []
    for row in sorted(rows, key=lambda row: row["seconds_ratio"]):
        if row["gap"] < best:
            best = row["gap"]
            line.append((row["seconds_ratio"], 100 * best))
    ax.plot(*zip(*line, strict=True), color=COLORS[1], linewidth=1)
    for row in oracle:
        ax.axhline(100 * row["gap"], color=ORACLE_COLOR, linestyle=":", label="oracles")
        ax.legend(loc="lower left")
    ax.margins(x=0.22)
    for axis in ("x", "y"):
        getattr(ax, f"set_{axis}scale")("log")
        getattr(ax, f"{axis}axis").set_major_locator(LogLocator(10, (1, 3)))
        getattr(ax, f"{axis}axis").set_major_formatter("{x:g}")
        getattr(ax, f"{axis}axis").set_minor_formatter(NullFormatter())
    ax.set_xlabel("time, multiple of retraining")
    ax.set_ylabel("gap to the oracle (points)")
    return figure


def stream_curves(by_method: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Request by request: accuracies, distance to the exact head, cumulative time.

    Args:
      by_method: `{method: {curve: [requests]}}` with the curves named below.
    """
    panels = (
        ("retained_accuracy", "accuracy on what is left (%)"),
        ("unlearned_accuracy", "accuracy on what was forgotten (%)"),
        ("distance", "distance to the exact head"),
        ("seconds", "time so far (s)"),
    )
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    styles = ("-", "--", ":")
    # Heads that agree lie on one another: the first are drawn widest, so that all can be seen.
    widths = np.linspace(6, 1.2, len(by_method))
    for ax, (name, label) in zip(axes, panels, strict=True):
        for i, (method, curves) in enumerate(by_method.items()):
            values = np.asarray(curves[name], float)
            if name == "seconds":
                values = np.cumsum(values)
            elif name == "distance":
                values = np.maximum(values, 1e-16)
            else:
                values = 100 * values
            style = styles[i // len(COLORS)]
            color = COLORS[i % len(COLORS)]
            look = {"color": color, "linewidth": widths[i], "solid_capstyle": "butt"}
            ax.plot(1 + np.arange(len(values)), values, style, label=method, **look)
        ax.set_ylabel(label)
        ax.grid(alpha=0.3)
        if name == "distance":
            ax.set_yscale("log")
        if name in ("distance", "seconds"):
            ax.set_xlabel("request")
    axes[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def training_curves(histories: Mapping[str, np.ndarray]) -> Figure:
    """Training loss by epoch: `{label: [epochs]}`, or `[runs, epochs]`; NaN where there is none."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    ax = figure.subplots()
    for i, (label, values) in enumerate(histories.items()):
        color = COLORS[i % len(COLORS)]
        for j, curve in enumerate(np.atleast_2d(values)):
            there = np.flatnonzero(np.isfinite(curve))
            name = None if j else label
            ax.plot(1 + there, np.asarray(curve)[there], color=color, alpha=0.7, label=name)
    lowest = min((line.get_ydata().min(initial=np.inf) for line in ax.lines), default=np.inf)
    if lowest > 0:  # losses of players may have any sign
        ax.set_yscale("log")
    ax.set_xlabel("epoch")
    ax.set_ylabel("training loss (nats)")
    if ax.lines:
        ax.legend()
    return figure


def fisher_shares(shares: Sequence[np.ndarray], losses: Sequence[np.ndarray]) -> Figure:
    """Which examples hold the forget set's Fisher trace: share against loss, and cumulated.

    Args:
      shares: `[N]` of each model, see `curvature.fisher_trace_shares`.
      losses: `[N]` of each model, of the same examples.
    """
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    by_loss, cumulated = figure.subplots(1, 2, sharey=True)
    for seed, (share, loss) in enumerate(zip(shares, losses, strict=True)):
        color = COLORS[seed % len(COLORS)]
        by_loss.scatter(np.maximum(loss, 1e-8), 100 * share, s=12, color=color, alpha=0.7)
        total = np.cumsum(np.sort(share)[::-1])
        count = np.arange(1, len(share) + 1)
        cumulated.plot(count, 100 * total, ".-", color=color)
    by_loss.set(xscale="log", xlabel="loss of the example (nats)", ylabel="% of the trace")
    by_loss.set_title("each example")
    cumulated.set(xscale="log", xlabel="examples, the largest first")
    cumulated.set_title("together, a line per model")
    return figure
