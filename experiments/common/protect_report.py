"""Tables, figures and files of experiments.protect."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from experiments.common import tabled
from experiments.common.runner import Run
from experiments.common.tabled import Cells, interval
from unlearnjax.report import protection_plots, sample_plots, table

# What makes rows one cell of the table, over seeds.
KEYS = ("protection", "hacker", "labels", "share")
MEASURED = ("clean_accuracy", "protected_accuracy", "train_accuracy")
COSTS = {"linf": 1, "l2": 2, "psnr": 1, "ssim": 3}  # digits that are printed
COLUMNS = {
    "protection": "clean; cuda: a filter per class; one_filter: the same filter for all classes, a "
    "control; clusters: optimised noise per cluster of features, found without labels; "
    "random_clusters, random_classes: random noise of that size, per cluster, per class; "
    "cuda:BLUR: of that strength; "
    "unprotected: clean images, but only the share that a protector of a part leaves",
    "hacker": "how models are trained on the protected images; linf, l2: adversarial training",
    "labels": "same: the hacker's are the protector's; coarser: groups of them; finer: the "
    "protector has the groups, the hacker the classes",
    "share": "of the training images that is protected",
    "clean accuracy": "CA, on clean test images, in percent: what a hacker wants; mean ± standard "
    "deviation over seeds",
    "effect": "protection effect: CA of the same training on clean images minus CA, in points; "
    "mean over seeds with its 95 % interval (Student's t on paired differences)",
    "protected accuracy": "on test images that are protected in the same way, by their labels "
    "where the protection reads labels: high where the protection is what was learned",
    "training accuracy": "on the images as they were trained on, without what the hacker adds",
    "chance": "share of the largest class in the test set",
    "linf, l2, PSNR, SSIM": "greatest change of a pixel out of 255; mean Euclidean norm of an "
    "image's change, pixels in [0, 1]; peak signal-to-noise ratio in dB; structural similarity",
}


def write(
    config: ConfigDict,
    run: Run,
    rows: list[table.Row],
    costs: list[table.Row],
    examples: Mapping[str, np.ndarray],
    class_names: Sequence[str],
) -> None:
    """Tables and files."""
    summary = summarise(rows, costs)
    title = f"Protected images: {config.dataset} ({config.model.name})"
    lead = (
        f"{config.num_seeds} seeds; of one seed, all rows start from the same weights and see the "
        "same examples in the same order. Inputs are standardised by the constants of the clean "
        "training set everywhere. "
    )
    figures = draw(summary, examples, class_names, config.cuda.blur)
    results = rows, summary, {"costs": costs}
    tabled.write(config, run, title, lead, tables(summary), figures, COLUMNS, *results)


def summarise(rows: Sequence[table.Row], costs: Sequence[table.Row]) -> list[table.Row]:
    """One row per cell: means and `_std` over seeds of what is measured, and the effect.

    `effect` is clean accuracy after clean training by the same hacker on the same labels minus that
    after the row's, paired by seed; `_low` and `_high` are its 95 % interval. What the protection
    costs joins rows in which all images are protected.
    """
    clean = {
        (r["hacker"], r["labels"], r["seed"]): r["clean_accuracy"]
        for r in rows
        if r["protection"] == "clean"
    }
    summary = []
    for key in dict.fromkeys(map(_key, rows)):
        own = sorted((r for r in rows if _key(r) == key), key=lambda r: r["seed"])
        row = dict(zip(KEYS, key, strict=True)) | {"num_seeds": len(own)}
        for name in (*MEASURED, "seconds"):
            values = np.array([r[name] for r in own])
            row[name] = float(values.mean())
            row[f"{name}_std"] = float(values.std(ddof=1)) if len(own) > 1 else float("nan")
        row["chance"] = own[0]["chance"]
        before = [clean[r["hacker"], r["labels"], r["seed"]] for r in own]
        effects = np.array(before) - [r["clean_accuracy"] for r in own]
        row["effect"] = float(effects.mean())
        if len(own) > 1:
            _, row["effect_low"], row["effect_high"] = interval(effects)
        of_row = row["protection"], row["labels"] == "finer"
        changed = [cost for cost in costs if (cost["protection"], cost["coarse"]) == of_row]
        if changed and row["share"] == 1:
            row |= {name: float(np.mean([cost[name] for cost in changed])) for name in COSTS}
        summary.append(row)
    return summary


def tables(summary: Sequence[table.Row]) -> dict[str, Cells]:
    """The tables by name."""
    usual = [row for row in summary if row["share"] == 1 and ":" not in row["protection"]]
    plain = [row for row in summary if row["hacker"] == "plain"]
    same = [row for row in plain if row["labels"] == "same"]
    of_cuda = [row for row in same if row["protection"].partition(":")[0] in ("clean", "cuda")]
    shares = [row for row in same if row["share"] < 1]
    strengths = [row for row in of_cuda if row["share"] == 1]
    strengths = strengths if any(":" in row["protection"] for row in strengths) else []
    found = {
        "protections": _accuracies(
            [row for row in usual if row in plain], ("protection", "labels")
        ),
        "hackers": _accuracies(
            [row for row in usual if row["labels"] == "same"], ("hacker", "protection")
        ),
        "shares": _accuracies(
            shares and [row for row in usual if row in of_cuda] + shares, ("protection", "share")
        ),
        "strengths": _accuracies(strengths, ("protection",)),
        "costs": _costs([row for row in plain if "psnr" in row and row["labels"] != "coarser"]),
    }
    return {name: cells for name, cells in found.items() if cells[0][1]}


def draw(
    summary: Sequence[table.Row],
    examples: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    blur: float,
) -> dict[str, tuple[str, Figure]]:
    """Name -> caption and figure."""
    sheets = {name: np.rint(255 * x).astype(np.uint8)[None] for name, x in examples.items()}
    figures = {
        "images": (
            "Training images of the first seed, clean and as they are published.",
            sample_plots.grid(sheets, class_names),
        )
    }
    same = [row for row in summary if row["hacker"] == "plain" and row["labels"] == "same"]
    whole = {row["protection"]: row for row in same if row["share"] == 1}
    clean, cuda = whole["clean"], whole.get("cuda")
    shares = {"cuda": {0.0: clean, 1.0: cuda}, "unprotected": {0.0: clean}}
    for row in (row for row in same if row["share"] < 1):
        shares[row["protection"]][row["share"]] = row
    if len(shares["cuda"]) > 2:
        shares["the clean part alone"] = shares.pop("unprotected")
        figures["shares"] = (
            "Accuracy on clean test images by the share of the training images that is protected, "
            "beside that of training on the others alone; mean and standard deviation over seeds. "
            "Dotted: chance.",
            protection_plots.accuracies(shares, "share protected", clean["chance"]),
        )
    strengths = {blur: cuda} | {
        float(name.partition(":")[2]): row for name, row in whole.items() if ":" in name
    }
    if len(strengths) > 1:
        figures["strengths"] = (
            "Accuracy on clean test images by the strength of the filters; without any, clean.",
            protection_plots.accuracies(
                {"cuda": strengths}, "largest weight beside the 1", clean["chance"]
            ),
        )
    return figures


def _key(row: table.Row) -> tuple:
    return tuple(row[name] for name in KEYS)


def _accuracies(rows: Sequence[table.Row], names: Sequence[str]) -> Cells:
    """Accuracies in percent, and the effect."""

    def text(row, name):
        if name == "share":
            return f"{row['share'] * (row['protection'] != 'clean'):.0%}"
        return str(row[name])

    cells = [(name, [text(row, name) for row in rows]) for name in names]
    for header, column in (
        ("clean accuracy", "clean_accuracy"),
        ("effect", "effect"),
        ("protected accuracy", "protected_accuracy"),
        ("training accuracy", "train_accuracy"),
    ):
        cells.append((header, [_percent(row, column) for row in rows]))
    return [*cells, ("chance", [f"{100 * row['chance']:.1f}" for row in rows])]


def _percent(row: table.Row, name: str) -> str:
    text = f"{100 * row[name]:.1f}"
    if f"{name}_low" in row:
        low, high = (100 * row[f"{name}_{end}"] for end in ("low", "high"))
        return f"{text} [{low:.1f}, {high:.1f}]"
    spread = row.get(f"{name}_std", float("nan"))
    return text if np.isnan(spread) else f"{text} ± {100 * spread:.1f}"


def _costs(rows: Sequence[table.Row]) -> Cells:
    heads = {"psnr": "PSNR", "ssim": "SSIM"}
    cells = [(name, [str(row[name]) for row in rows]) for name in ("protection", "labels")]
    for name, digits in COSTS.items():
        cells.append((heads.get(name, name), [f"{row[name]:.{digits}f}" for row in rows]))
    return cells
