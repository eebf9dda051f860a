"""Tables, figures and files of experiments.datamodel."""

from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from experiments.common import runner
from experiments.common.populations import PARTS, Outcome
from unlearnjax import audit, parallel
from unlearnjax.report import html, population_plots, table

Cells = list[tuple[str, list[str]]]
ATTRIBUTION = {
    "LDS": "linear datamodeling score: Spearman correlation over held-out subsets between "
    "predicted margins and those of models trained on them, mean over examples; with its 95 % "
    "bootstrap interval over examples",
    "training, test": "of the margins of training and of test examples",
    "time": "to fit the attributor and to predict the held-out subsets, compilation included; the "
    "models that it looks at are not counted",
}
# Columns that are shown for each forget set, and what their tables are called.
BY_SET = {
    "klom": "KLoM by forget set",
    "klom_forget": "KLoM of the forget set alone",
    "effect": "effect by forget set",
}
METHODS = {
    "KLoM": "KL divergence in nats of the unlearned models' margins from the oracles', per "
    "example; mean and, in brackets, 95th percentile over the examples, mean over forget sets. "
    "The row 'oracle' is what other oracles score, the least that can be had; 11.5 is the most",
    "mean": "mean KLoM over the three parts; settings are chosen by it, against other oracles than "
    "those of the table",
    "one setting": "the same with the one setting that is best over all forget sets",
    "U-LIRA": "attack that calls a forget example of a model unlearned or never seen by the ratio "
    "of two Gaussians: balanced accuracy, area under the ROC curve and true positive rate at 1 % "
    "false positives; ideal 50 %, 0.5, 1 %",
    "RMIA": "area under the ROC curve of a membership attack without distributional assumptions",
    "effect": "how much of the oracles' change of the mean margins of the forget set there is, by "
    "least squares over its examples; ideal 1, of noise alone where nothing changes (random sets)",
    "compute": "floating-point operations of a request, share of a training run; of attributors "
    "only the prediction is counted",
}


def write(
    config: ConfigDict,
    run: runner.Run,
    scores: list[table.Row],
    outcomes: Mapping[str, Outcome],
    known: Mapping[str, np.ndarray],
    size: int,
) -> None:
    """Table and files."""
    rows = [row for outcome in outcomes.values() for row in outcome.rows]
    summary = scores + summarise(rows)
    options = config.ensemble
    title = f"Datamodels: {config.dataset} ({config.model.name})"
    lead = (
        f"{options.num_models} models on subsets of {size} training examples (share "
        f"{options.share}); attributors are scored on {options.num_held_out} further subsets. TRAK "
        f"and influence functions look at {config.num_checkpoints} models trained on all. "
    )
    if rows:
        lead += (
            f"{config.num_originals} models unlearn each forget set and are compared with "
            f"{config.num_originals} oracles, models trained without it."
        )
    parts = tables(summary)
    figures = draw(outcomes, known, size) if rows else {}
    first, *rest = parts
    page = html.page(
        title,
        lead,
        parts[first],
        figures,
        (METHODS if rows else {}) | ATTRIBUTION,
        {"Configuration": config.to_yaml()},
        few_models(config) if rows else (),
        {name: parts[name] for name in rest},
    )
    run.write_results(rows or scores, summary, page, {})
    run.write_figures(
        dict(
            zip(("compute", "klom", "roc", "margins", "margins_2"), figures.values(), strict=False)
        )
    )
    if parallel.is_main_process():
        for name, cells in parts.items():
            table.print_columns(cells, f"{title}: {name}", "")
        for warning in few_models(config) if rows else ():
            print(f"warning: {warning}")
        print(f"report: {run.workdir / 'report.html'}")


def few_models(config: ConfigDict) -> list[str]:
    """What the audits have too few models for."""
    wanted, given = audit.ENOUGH_MODELS, config.num_originals
    return [
        f"{name} wants {number} models on each side, got {given}: {effect}."
        for name, number, effect in (
            ("KLoM", wanted["klom"], "its noise floor is high"),
            ("U-LIRA", wanted["u_lira"], "its Gaussians are rough"),
        )
        if given < number
    ]


def summarise(rows: list[table.Row]) -> list[table.Row]:
    """One row per method: means over the forget sets of what was chosen for each.

    `klom: SET`, `klom_forget: SET` and `effect: SET` are the parts; `klom_one_setting` is the mean
    with the setting whose mean over all sets is smallest by the oracles that choose.
    """
    summary = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        chosen = [row for row in own if row["chosen"]]
        names = [k for k, v in chosen[0].items() if isinstance(v, float) and _is_measure(k)]
        row = {"method": method}
        row |= {name: float(np.mean([c[name] for c in chosen])) for name in names}
        for c in chosen:
            row |= {f"{name}: {c['forget_set']}": c[name] for name in BY_SET}
        # Every forget set has the same points in the same order.
        by_point = np.reshape([[r["selection_klom"], r["klom"]] for r in own], (len(chosen), -1, 2))
        means = by_point.mean(0)
        row["klom_one_setting"] = float(means[means[:, 0].argmin(), 1])
        summary.append(row)
    order = {"oracle": 0, "original": 1}
    return sorted(summary, key=lambda row: (order.get(row["method"], 2), row["klom"]))


def tables(summary: list[table.Row]) -> dict[str, Cells]:
    """The tables by name: of methods and, part by part, of forget sets; of attributors."""
    methods = [row for row in summary if "method" in row]
    scores = [row for row in summary if "attributor" in row]
    found = {}
    if methods:
        found["methods"] = _methods(methods)
        found |= {heading: _by_set(methods, f"{name}: ") for name, heading in BY_SET.items()}
    if scores:
        found["attribution"] = _attribution(scores)
    return found


def draw(
    outcomes: Mapping[str, Outcome], known: Mapping[str, np.ndarray], size: int
) -> dict[str, bytes]:
    """The figures by caption."""
    rows = [row for outcome in outcomes.values() for row in outcome.rows]
    methods = [m for m in next(iter(outcomes.values())).klom if m != "oracle"]
    klom = {part: {m: [] for m in ("oracle", *methods)} for part in PARTS}
    scores = {m: ([], []) for m in ("oracle", *methods)}
    for name, outcome in outcomes.items():
        retain = np.setdiff1d(np.arange(size), known[name])
        parts = (known[name], retain, slice(size, None))
        for method, values in outcome.klom.items():
            for part, where in zip(PARTS, parts, strict=True):
                klom[part][method].append(values[where])
            for ours, new in zip(scores[method], outcome.scores[method], strict=True):
                ours.append(new)
    klom = {p: {m: np.concatenate(v) for m, v in by.items()} for p, by in klom.items()}
    scores = {m: tuple(np.concatenate(v) for v in pair) for m, pair in scores.items()}
    originals = [row for row in rows if row["method"] == "original"]
    hardest = sorted(originals, key=lambda row: -row["klom_forget"])[:2]
    return {
        "Every setting tried: distance from the oracles against compute. Dotted: other oracles; "
        "line: the original models.": html.figure_png(
            population_plots.klom_against_compute(rows), 100
        ),
        "Share of examples up to a KLoM, all forget sets together.": html.figure_png(
            population_plots.klom_distributions(klom)
        ),
        "U-LIRA on the forget sets: ROC curve.": html.figure_png(population_plots.roc(scores)),
    } | {
        f"Mean margins with {name} forgotten, one point per example.": html.figure_png(
            population_plots.margins(
                outcomes[name].margins["reference"],
                {m: outcomes[name].margins[m] for m in ("oracle", *methods)},
                known[name],
            ),
            100,
        )
        for name in (row["forget_set"] for row in hardest)
    }


def _methods(rows: list[table.Row]) -> Cells:
    number = lambda name, digits=2, scale=1: [f"{scale * row[name]:.{digits}f}" for row in rows]
    klom = lambda part: [f"{r[f'klom_{part}']:.2f} ({r[f'klom_{part}_95']:.2f})" for r in rows]
    return [
        ("method", [row["method"] for row in rows]),
        *((f"KLoM {part}", klom(part)) for part in PARTS),
        ("mean", number("klom")),
        ("one setting", number("klom_one_setting")),
        ("U-LIRA %", number("u_lira_accuracy", 1, 100)),
        ("U-LIRA AUC", number("u_lira_auc", 3)),
        ("U-LIRA TPR % at 1 %", number("u_lira_tpr_at_1%", 1, 100)),
        ("RMIA AUC", number("rmia_auc", 3)),
        ("compute", [f"{row['compute']:.2g}x" for row in rows]),
    ]


def _by_set(rows: list[table.Row], prefix: str) -> Cells:
    names = [name for name in rows[0] if name.startswith(prefix)]
    return [
        ("method", [row["method"] for row in rows]),
        *((name.removeprefix(prefix), [f"{row[name]:.2f}" for row in rows]) for name in names),
    ]


def _attribution(rows: list[table.Row]) -> Cells:
    text = lambda row, part: (
        f"{row[f'{part}_lds']:.3f} [{row[f'{part}_low']:.3f}, {row[f'{part}_high']:.3f}]"
    )
    return [
        ("attributor", [row["attributor"] for row in rows]),
        ("training LDS", [text(row, "training") for row in rows]),
        ("test LDS", [text(row, "test") for row in rows]),
        ("time", [f"{row['seconds']:.1f} s" for row in rows]),
    ]


def _is_measure(name: str) -> bool:
    return name.startswith(("klom", "u_lira", "rmia", "compute"))
