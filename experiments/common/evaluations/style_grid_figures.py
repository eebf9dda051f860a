"""Figures of `evaluations.style_grid`: answers, what is seen in them, forgetting and keeping."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from experiments.common import grids
from experiments.common.evaluations import Arrays, sets
from experiments.common.evaluations import style_grid_seen as seen
from experiments.common.measure import Bench
from unlearnjax.audit import canvas
from unlearnjax.data import concept_requests
from unlearnjax.data.style_grid import StyleGrid
from unlearnjax.report import grid_plots, table


def figures(
    bench: Bench, summary: Sequence[table.Row], arrays: Mapping[str, Sequence[Arrays]]
) -> dict[str, tuple[str, Figure]]:
    """Answers, what is seen in them, forgetting against keeping, and what `sets.figures` makes."""
    dataset = bench.problem.dataset
    requests = grids.requests(bench.config, dataset)
    names = dataset.styles, dataset.class_names
    shape = len(names[0]), len(names[1])
    gone = concept_requests.covers(seen.everything(requests), *np.indices(shape))
    order = [m for m in ("original", "oracle") if m in arrays]
    order += [m for m in arrays if m not in order]
    by_method = {method: arrays[method] for method in order}
    first = {method: _first(own[0], shape) for method, own in by_method.items()}
    found = {
        "answers": (
            "One answer of each cell, first seed: the same noise in the same cell of every model. "
            "What is forgotten is framed; what an oracle draws there was never taught to it.",
            grid_plots.answers(first, *names, gone),
        )
    }
    for label in seen.LABELS:
        maps = {"all judges, real images": by_method["original"][0]["real_cells"]}
        maps |= {method: _cells(own, label, shape) for method, own in by_method.items()}
        found[f"{label}_seen"] = (
            f"How often the {label} that was asked for is seen, in percent, mean over judges and "
            "seeds; first, in real test images, both style and object by all judges.",
            grid_plots.heat_maps(maps, *names, gone),
        )
    points = {
        method: [
            (row["unlearning_accuracy"], row["retained_accuracy"])
            for row in (seen.seen_in(own, requests) for own in seeds if not own["broken"])
        ]
        for method, seeds in by_method.items()
    }
    found["frontier"] = (
        "What is forgotten against what is kept, a point for each seed; the ideal is the oracle's.",
        grid_plots.frontier({method: own for method, own in points.items() if own}),
    )
    accuracies, retained = _trails(by_method, requests)
    if accuracies:
        found["sequence"] = (
            "Unlearning accuracy of each request after it and after those that followed, in "
            "percent, and retained accuracy on what is never requested.",
            grid_plots.triangles(accuracies, retained, _names(dataset, requests)),
        )
    if "oracle" not in arrays:
        return found
    losses = sets.figures(bench, summary, arrays, metric="loss", scale=1, unit="squared error")
    return {**found, **losses}


def examples(
    bench: Bench, arrays: Mapping[str, Sequence[Arrays]]
) -> dict[str, list[tuple[str, list[str]]]]:
    """Of requests one after another the table of what each left, in percent, mean over seeds."""
    dataset = bench.problem.dataset
    requests = grids.requests(bench.config, dataset)
    accuracies, retained = _trails(arrays, requests)
    if not accuracies:
        return {}
    names = _names(dataset, requests)
    percent = lambda value: "–" if np.isnan(value) else f"{100 * value:.1f}"
    whole = np.concatenate(list(accuracies.values()))
    columns = [
        ("method", [method for method in accuracies for _ in names]),
        ("after", names * len(accuracies)),
        *((f"UA of {name}", list(map(percent, whole[:, i]))) for i, name in enumerate(names)),
        ("retained", [percent(value) for own in retained.values() for value in own]),
    ]
    return {"Requests one after another, %": columns}


def _trails(
    arrays: Mapping[str, Sequence[Arrays]], requests: seen.Requests
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`seen.sequence` of the methods that were asked one request after another, mean over seeds."""
    trails = {
        method: [seen.sequence(own, requests) for own in seeds]
        for method, seeds in arrays.items()
        if len(requests) > 1 and "seen_style_after0" in seeds[0]
    }
    mean = lambda place: {
        method: np.mean([own[place] for own in seeds], axis=0) for method, seeds in trails.items()
    }
    return mean(0), mean(1)


def _names(dataset: StyleGrid, requests: seen.Requests) -> list[str]:
    return ["+".join(concept_requests.name_of(c, dataset) for c in own) for own in requests]


def _first(arrays: Arrays, shape: tuple[int, int]) -> np.ndarray:
    """`[S, O, H, W, 3]`: the first answer of each cell."""
    plain = arrays["images"][seen.plain(arrays)]
    return plain.reshape(*shape, -1, *plain.shape[1:])[:, :, 0]


def _cells(seeds: Sequence[Arrays], label: str, shape: tuple[int, int]) -> np.ndarray:
    """`[S, O]`, how often what was asked for is seen."""

    def of(own: Arrays) -> np.ndarray:
        plain = seen.plain(own)
        right = (own[f"seen_{label}"] == own[label])[:, plain].mean(0)
        return canvas.cells(right, *(own[name][plain] for name in seen.LABELS), shape)

    return np.mean([of(own) for own in seeds], axis=0)
