"""Tables, figures and files of experiments.backdoor."""

import numpy as np
from matplotlib.figure import Figure

from experiments.common import tabled
from experiments.common.tabled import Cells
from unlearnjax import audit
from unlearnjax.audit import backdoor
from unlearnjax.data import pixels
from unlearnjax.report import backdoor_plots, table

COLUMNS = {
    "after": "raw: the model as it was trained; else the exposure or the removal; X@Y: X after the "
    "exposure Y, or with the trigger that is found in a model so exposed",
    "clean %": "accuracy on held-out examples",
    "attack %": "share of held-out examples of other classes that, with the trigger, are taken for "
    "the class that the attack wants; of clean models their error rate into that class",
    "epochs": "after which clean unlearning stops, or that there are",
    "largest share": "of predictions for the defender's clean examples that one class has",
    "label %": "models whose class of the largest share is the attack's",
    "clean models: label %": "the same of clean models, each against the class of the poisoned "
    "model of its number: what chance gives",
    "clean models: onto": "the class that most of the clean models fall into, and how many of them",
    "AUROC": "probability that the statistic is larger for a poisoned model than for a clean one "
    "after the same; in brackets 95 % of bootstrap samples of models; 0.5 says nothing",
    "TPR / FPR %": "poisoned and clean models beyond the published threshold: variance of shares "
    "0.01, anomaly index 2, p-value of margins 0.05",
    "STRIP": "AUROC of images with the trigger against the same without, by low entropy, in each "
    "poisoned model",
    "norm": "L1 norm of the mask that is found for the attack's class, in pixels",
    "recovered attack %": "of the trigger that is found for the attack's class, on held-out images",
    "overlap": "of what of its mask is above a half and the pixels that the trigger changes: "
    "intersection over union",
    "least mask %": "models in which the attack's class has the smallest mask",
    "intervals": "mean ± standard deviation over models of a kind",
}
# Statistics of a model: of what the published test decides, and above or below which value.
STATISTICS = {
    "largest share": ("largest_share", None),
    "share variance": ("share_variance", backdoor.SHARE_VARIANCE),
    "anomaly index": ("anomaly_index", backdoor.ANOMALY_INDEX),
    "margin": ("margin_confidence", 1 - backdoor.MARGIN_P_VALUE),
}


def rows_of(stage, model: str, after: str, seen: dict, kind: str = "exposure") -> list[table.Row]:
    """One row per model."""
    rows = []
    count, classes = stage.config.num_models, stage.dataset.num_classes
    true = np.asarray(stage.test["targets"])
    for number, label in enumerate(stage.labels.tolist()):
        own = {name: values[number] for name, values in seen.items()}
        shares = backdoor.class_shares(own["clean_predictions"], classes)
        row = {
            "step": kind,
            "model": model,
            "after": after,
            "poisoned": int(number >= count),
            "number": number % count,
            "label": label,
            "clean_accuracy": float((own["test_predictions"] == true).mean()),
            "attack": backdoor.attack_success(own["triggered_predictions"], true, label),
            "known_accuracy": float(
                (own["clean_predictions"] == np.asarray(stage.clean["targets"])).mean()
            ),
            "largest_share": float(shares.max()),
            "share_variance": float(shares.var()),
            "share_label": int(shares.argmax()),
            "label_found": float(shares.argmax() == label),
            "epochs": float(own.get("epochs", np.nan)),
        }
        if "norm" in own:
            row |= _searched(stage, own, label)
        rows.append(row)
    return rows


def _searched(stage, own: dict, label: int) -> table.Row:
    norms, margins = own["norm"], own["margin"]
    try:
        indices = backdoor.anomaly_index(norms)
    except ValueError:  # masks alike: nothing to tell classes apart by
        indices = np.zeros_like(norms)
    try:
        margin_p_value = backdoor.margin_p_value(margins)
    except ValueError:  # as above
        margin_p_value = 1.0
    below = norms < np.median(norms)
    mask = own["mask"][label][..., 0] > 0.5
    support = changed(stage)
    union = (mask | support).sum()
    return {
        "anomaly_index": float(np.max(indices * below)),
        "mask_found": float(norms.argmin() == label),
        "recovered_norm": float(norms[label]),
        "recovered_attack": float(own["success"][label]),
        "overlap": float((mask & support).sum() / union) if union else 0.0,
        "margin_confidence": 1 - margin_p_value,
        "margin_found": float(margins.argmax() == label),
        "strip": audit.auc(-own["entropy_triggered"], -own["entropy_plain"]),
    }


def changed(stage) -> np.ndarray:
    """`[H, W]` bool: the pixels that the trigger changes in any of the clean images."""
    inputs = stage.clean["inputs"]
    before, after = (
        np.clip(pixels.to_pixels(x, stage.scale), 0, 1) for x in (inputs, stage.trigger(inputs))
    )
    apart = np.abs(after - before)
    return (apart > 0.5 / 255).any((0, 3))


def summarise(rows: list[table.Row]) -> list[table.Row]:
    """One row per architecture and what was done: means over models, and how well they are told.

    `_std` is over models, `clean_` before a name says of the clean ones; of each of `STATISTICS`
    there are `auroc: NAME` with `_low` and `_high`, and `tpr: NAME`, `fpr: NAME`.
    """
    summary = []
    keys = dict.fromkeys((row["step"], row["model"], row["after"]) for row in rows)
    for step, model, after in keys:
        own = [r for r in rows if (r["step"], r["model"], r["after"]) == (step, model, after)]
        kinds = {
            "": [r for r in own if r["poisoned"]],
            "clean_": [r for r in own if not r["poisoned"]],
        }
        row = {"step": step, "model": model, "after": after, "num_models": len(kinds[""])}
        names = [
            name
            for name, value in own[0].items()
            if isinstance(value, float) and name not in ("poisoned", "number", "label")
        ]
        for prefix, of_kind in kinds.items():
            for name in names:
                values = np.array([r[name] for r in of_kind])
                row[prefix + name] = float(values.mean())
                row[f"{prefix}{name}_std"] = float(values.std(ddof=1))
            found = np.bincount([r["share_label"] for r in of_kind])
            row[f"{prefix}onto"] = int(found.argmax())
            row[f"{prefix}onto_count"] = int(found.max())
        for name, (column, threshold) in STATISTICS.items():
            if column not in own[0]:
                continue
            poisoned, clean = (np.array([r[column] for r in kinds[k]]) for k in ("", "clean_"))
            value, low, high = interval(poisoned, clean)
            row |= {f"auroc: {name}": value, f"auroc: {name}_low": low, f"auroc: {name}_high": high}
            if threshold is not None:
                row[f"tpr: {name}"] = float((poisoned > threshold).mean())
                row[f"fpr: {name}"] = float((clean > threshold).mean())
        summary.append(row)
    return summary


def interval(
    positive: np.ndarray, negative: np.ndarray, samples: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """AUROC and its percentile interval over bootstrap samples of the models of each kind."""
    rng = np.random.default_rng(0)
    drawn = [
        audit.auc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative)))
        for _ in range(samples)
    ]
    low, high = np.quantile(drawn, ((1 - level) / 2, (1 + level) / 2))
    return audit.auc(positive, negative), float(low), float(high)


def tables(summary: list[table.Row]) -> dict[str, Cells]:
    """The tables by name."""
    exposures = [row for row in summary if row["step"] == "exposure"]
    audited = [row for row in exposures if "recovered_norm" in row]
    removals = [row for row in summary if row["step"] == "removal"]
    found = {
        "exposure": _names(exposures)
        + [
            ("epochs", [_mean(row, "epochs", 1, 0) for row in exposures]),
            ("clean %", [_mean(row, "clean_accuracy") for row in exposures]),
            ("attack %", [_mean(row, "attack") for row in exposures]),
            ("largest share %", [_mean(row, "largest_share") for row in exposures]),
            ("label %", [_mean(row, "label_found", spread=False) for row in exposures]),
            ("clean models: clean %", [_mean(row, "clean_clean_accuracy") for row in exposures]),
            (
                "clean models: largest share %",
                [_mean(row, "clean_largest_share") for row in exposures],
            ),
            (
                "clean models: label %",
                [_mean(row, "clean_label_found", spread=False) for row in exposures],
            ),
            (
                "clean models: onto",
                [
                    f"{row['clean_onto']} ({row['clean_onto_count']} of {row['num_models']})"
                    for row in exposures
                ],
            ),
        ],
        "detection": _names(exposures)
        + [(f"{name}: AUROC", [_auroc(row, name) for row in exposures]) for name in STATISTICS]
        + [
            (f"{name}: TPR / FPR %", [_rates(row, name) for row in exposures])
            for name, (_, threshold) in STATISTICS.items()
            if threshold is not None
        ]
        + [("STRIP", [_mean(row, "strip", 1, 2) for row in exposures])],
        "recovery": _names(audited)
        + [
            ("norm", [_mean(row, "recovered_norm", 1, 1) for row in audited]),
            ("recovered attack %", [_mean(row, "recovered_attack") for row in audited]),
            ("overlap", [_mean(row, "overlap", 1, 2) for row in audited]),
            ("least mask %", [_mean(row, "mask_found", spread=False) for row in audited]),
            ("largest margin %", [_mean(row, "margin_found", spread=False) for row in audited]),
            ("clean models: norm", [_mean(row, "clean_recovered_norm", 1, 1) for row in audited]),
        ],
        "removal": _names([row for row in exposures if row["after"] == "raw"] + removals),
    }
    before = [row for row in exposures if row["after"] == "raw"] + removals
    found["removal"] += [
        ("clean %", [_mean(row, "clean_accuracy") for row in before]),
        ("attack %", [_mean(row, "attack") for row in before]),
        ("clean models: clean %", [_mean(row, "clean_clean_accuracy") for row in before]),
    ]
    return {name: cells for name, cells in found.items() if cells[0][1]}


def _names(rows: list[table.Row]) -> Cells:
    return [("after", [row["after"] for row in rows]), ("model", [row["model"] for row in rows])]


def _mean(row, name: str, scale: float = 100, digits: int = 1, spread: bool = True) -> str:
    value, std = row.get(name, np.nan), row.get(f"{name}_std", np.nan)
    if np.isnan(value):
        return "–"
    text = f"{scale * value:.{digits}f}"
    return f"{text} ± {scale * std:.{digits}f}" if spread else text


def _auroc(row, name: str) -> str:
    key = f"auroc: {name}"
    if key not in row:
        return "–"
    return f"{row[key]:.2f} [{row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f}]"


def _rates(row, name: str) -> str:
    if f"tpr: {name}" not in row:
        return "–"
    return f"{100 * row[f'tpr: {name}']:.0f} / {100 * row[f'fpr: {name}']:.0f}"


def write(stage, rows: list[table.Row], found: dict, curves: dict) -> None:
    """Tables, figures and files."""
    config, run = stage.config, stage.run
    summary = summarise(rows)
    title = f"Backdoors, exposed: {config.dataset}, trigger {config.trigger}"
    lead = (
        f"{config.num_models} clean and {config.num_models} poisoned models of each architecture; "
        f"{100 * config.poison_rate:g} % of the training examples carry the trigger. The defender "
        f"has {config.num_clean} clean ones. Clean models are treated alike: only the difference "
        "to them says something of backdoors."
    )
    figures = draw(stage, found, curves)
    results, caption = (rows, summary, {}), "mean ± standard deviation over models"
    tabled.write(config, run, title, lead, tables(summary), figures, COLUMNS, *results, caption)


def draw(stage, found: dict, curves: dict) -> dict[str, tuple[str, Figure]]:
    """Name -> caption and figure."""
    config, figures = stage.config, {}
    first = config.num_models  # the first poisoned model
    label = int(stage.labels[first])
    for model, arrays in curves.items():
        kinds = {
            kind: {name: arrays[f"{kind}_{name}"] for name in ("shares", "accuracy", "attack")}
            for kind in ("clean", "poisoned")
        }
        figures[f"shares_{model}"] = (
            f"{model}: what the defender's clean images are taken for, epoch by epoch of "
            f"{config.curve}, in the first clean and the first poisoned model (the attack wants "
            f"class {label}), with accuracy and attack success on held-out images.",
            backdoor_plots.shares(kinds, label),
        )
    for model in config.models:
        pictures = {
            exposure: arrays["mask"][first] * arrays["pattern"][first]
            for (name, exposure), arrays in found.items()
            if name == model and "mask" in arrays
        }
        if pictures:
            figures[f"triggers_{model}"] = (
                f"{model}: mask times pattern that is found for each class in the first poisoned "
                f"model; the attack wants class {label}.",
                backdoor_plots.recovered(pictures, changed(stage), label),
            )
    return figures
