"""Tables, figures and files of experiments.worst_case."""

import numpy as np
from matplotlib.figure import Figure

from experiments.common import tabled
from experiments.common.tabled import Cells, interval
from unlearnjax.report import selection_plots, table

COLUMNS = {
    "random, worst:X, gap:X, easiest:X": "forget sets of one size: random; found by search against "
    "X so that the unlearned model still fits them (worst), fits them while models that never saw "
    "them do not (gap), does not fit them (easiest)",
    "moved:SET": "what was found on the model of another seed",
    "lowest_loss, highest_loss, typical, memorised": "ranked by the original's loss; by the "
    "distance to the mean of the class; by how much larger the loss is without the example",
    "oracle": "unlearning accuracy (1 - accuracy on the forget set) of models trained without the "
    "set, in percent; for average gaps 0 by definition",
    "gap": "difference of unlearning accuracy to the oracle of the same seed and set, in points: "
    "mean ± standard deviation over seeds; * where the mean paired difference to the random set is "
    "above 0 with 95 % confidence (Student's t)",
    "regression": "in the place of accuracies mean absolute errors, in hundredths of a standard "
    "deviation of the targets",
    "average gap": "mean absolute difference to the oracle of accuracy on forget, retain and test "
    "set and of MIA efficacy, in points",
    "KLoM": "divergence of the margins of the forget set's examples from the oracles' in nats, on "
    "the sets of the first seed; the rows 'oracle' and 'original': other oracles, untouched models",
}


def write(stage, rows, kloms, chosen, examples) -> None:
    """Table and files."""
    config, run = stage.config, stage.run
    summary = summarise(rows, kloms)
    what = "training examples" if config.by == "example" else f"groups by {config.by}"
    title = f"Worst-case forget sets: {config.dataset} ({config.model.name})"
    lead = (
        f"{stage.number} of {int(stage.groups.max()) + 1} {what} are forgotten; {config.num_seeds} "
        "seeds, each with its own original, sets and oracles. "
    )
    figures = draw(stage, summary, chosen, examples)
    results = rows, summary, {"klom": kloms}
    tabled.write(config, run, title, lead, tables(summary), figures, COLUMNS, *results)


def summarise(rows: list[table.Row], kloms: list[table.Row]) -> list[table.Row]:
    """One row per method with, for every set, `gap: SET`, `average_gap: SET`, `klom: SET`.

    `_std` is over seeds; `more_gap: SET` is the mean paired difference of the gap to that on the
    random set, `_low` and `_high` its 95 % interval. Of the oracle, `gap` is its unlearning
    accuracy, or its error for regression.
    """
    summary = []
    for method in dict.fromkeys(row["method"] for row in [*rows, *kloms]):
        row = {"method": method}
        own = [r for r in rows if r["method"] == method]
        for name in dict.fromkeys(r["set"] for r in own):
            of_set = sorted((r for r in own if r["set"] == name), key=lambda r: r["seed"])
            gaps = np.array([r["forget_gap"] for r in of_set])
            if method == "oracle":
                gaps = np.array(
                    [r.get("forget_error", 1 - r.get("forget_accuracy", 0)) for r in of_set]
                )
            averages = np.array([r["average_gap"] for r in of_set])
            for column, values in (("gap", gaps), ("average_gap", averages)):
                row[f"{column}: {name}"] = float(values.mean())
                row[f"{column}: {name}_std"] = float(values.std(ddof=1))
            random = {r["seed"]: r["forget_gap"] for r in own if r["set"] == "random"}
            if name != "random" and method != "oracle":
                more = np.array([r["forget_gap"] - random[r["seed"]] for r in of_set])
                row |= dict(zip(_interval_names(name), interval(more), strict=True))
        for r in kloms:
            if r["method"] == method:
                row[f"klom: {r['forget_set']}"] = r["klom_forget"]
        summary.append(row)
    return summary


def tables(summary: list[table.Row]) -> dict[str, Cells]:
    """The tables by name."""
    compared = [row for row in summary if "gap: random" in row]
    methods = [row for row in compared if row["method"] != "oracle"]
    found = {
        "gap": _by_set(compared, "gap"),
        "more than random": _own(methods),
        "average gap": _by_set(methods, "average_gap"),
        "ranking": _ranking(methods),
    }
    if any("klom: random" in row for row in summary):
        found["KLoM"] = _by_set([row for row in summary if "klom: random" in row], "klom", 1)
    return {name: cells for name, cells in found.items() if cells[0][1]}


def draw(stage, summary, chosen, examples) -> dict[str, tuple[str, Figure]]:
    """Name -> caption and figure."""
    compared = [row for row in summary if "gap: random" in row and row["method"] != "oracle"]
    sets = list(examples)
    values = np.array([[100 * row[f"gap: {name}"] for name in sets] for row in compared])
    names = [row["method"] for row in compared]
    config = stage.config
    shown = ["random"]
    for kind, searches in (
        ("worst", config.searches), ("gap", config.searches), ("easiest", config.easiest)
    ):  # fmt: skip
        shown += [f"{kind}:{name}" for name in searches[:1]]
    targets = np.asarray(stage.pool["targets"])
    if config.task == "regression":  # quarters of the targets stand for classes
        targets = np.digitize(targets, np.quantile(targets[: stage.size], (0.25, 0.5, 0.75)))
    classes = int(targets.max()) + 1
    shares = {
        name: np.mean(
            [np.bincount(targets[rows], minlength=classes) / len(rows) for rows in examples[name]],
            axis=0,
        )
        for name in shown
    }
    losses = {
        name: np.concatenate(
            [stage.before["loss"][seed][rows] for seed, rows in enumerate(examples[name])]
        )
        for name in shown
    }
    overlap = _overlaps(chosen)
    figures = {
        "gaps": (
            "Difference of unlearning accuracy to the oracle in points, mean over seeds.",
            selection_plots.gaps(values, names, sets, "points"),
        ),
        "overlap": (
            "How much of one set is in another of the same seed (percent), mean over seeds; on the "
            "diagonal: in that of another seed. Chance is the share that is selected.",
            selection_plots.gaps(100 * overlap, sets, sets, "%"),
        ),
        "composition": (
            "Classes (regression: quarters of the targets) of the sets, and the original's losses "
            "on them, all seeds together.",
            selection_plots.composition(shares, losses),
        ),
    }
    inputs = np.asarray(stage.pool["inputs"])
    if inputs.ndim == 4:
        rng = np.random.default_rng(config.seed)
        pictures = {}
        for name in shown:
            rows = rng.permutation(examples[name][0])[:16]
            pictures[name] = (inputs[rows], targets[rows])
        figures["images"] = (
            "Examples of the sets of the first seed, with their labels.",
            selection_plots.images(pictures),
        )
    return figures


def _overlaps(chosen: dict[str, np.ndarray]) -> np.ndarray:
    """`[sets, sets]` shares; on the diagonal the mean over pairs of seeds."""
    rows = [np.asarray(values) for values in chosen.values()]
    size = rows[0][0].sum()
    result = np.array([[(a * b).sum(1).mean() / size for b in rows] for a in rows])
    for i, own in enumerate(rows):
        pairs = own @ own.T / size
        result[i, i] = (pairs.sum() - np.trace(pairs)) / (len(own) * (len(own) - 1))
    return result


def _by_set(rows: list[table.Row], column: str, scale: float = 100) -> Cells:
    names = [k.partition(": ")[2] for k in rows[0] if k.startswith(f"{column}: ")]
    names = [name for name in names if not name.endswith("_std")]
    cells = [("method", [row["method"] for row in rows])]
    for name in names:
        column_cells = []
        for row in rows:
            key = f"{column}: {name}"
            text = f"{scale * row[key]:.{1 if scale > 1 else 2}f}"
            if f"{key}_std" in row:
                text += f" ± {scale * row[f'{key}_std']:.1f}"
            if column == "gap" and row.get(f"more_gap: {name}_low", 0) > 0:
                text += " *"
            column_cells.append(text)
        cells.append((name, column_cells))
    return cells


def _own(rows: list[table.Row]) -> Cells:
    """Sets found against an unlearner, tested on that unlearner: how much more than random."""
    own = [row for row in rows if f"more_gap: worst:{row['method']}" in row]
    cells = [("method", [row["method"] for row in own])]
    cells.append(("random", [f"{100 * row['gap: random']:.1f}" for row in own]))
    for kind in ("worst", "gap"):
        texts = []
        for row in own:
            mean, low, high = (100 * row[k] for k in _interval_names(f"{kind}:{row['method']}"))
            texts.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
        cells.append((f"{kind}: more than random", texts))
    return cells


def _ranking(rows: list[table.Row]) -> Cells:
    """Methods by average gap: on random sets, on the paper's worst sets, on ours."""
    prefix = "average_gap: "
    names = [k.removeprefix(prefix) for k in rows[0] if k.startswith(prefix)]
    kinds = {"random": ["random"]}
    for kind in ("worst", "gap"):
        kinds[kind] = [n for n in names if n.startswith(f"{kind}:") and not n.endswith("_std")]
    cells = [("rank", [str(i + 1) for i in range(len(rows))])]
    for kind, sets in kinds.items():
        if sets:
            mean = lambda row, sets=sets: np.mean([row[prefix + name] for name in sets])
            order = sorted(rows, key=mean)
            cells.append((kind, [f"{row['method']} ({100 * mean(row):.1f})" for row in order]))
    return cells


def _interval_names(name: str) -> tuple[str, str, str]:
    return f"more_gap: {name}", f"more_gap: {name}_low", f"more_gap: {name}_high"
