"""UnlearnCanvas: what judges see in a grid of styles and objects that a model is asked to draw.

Every model draws the same answer set, so many images of every style and object, from the same
noise; beside it, what is forgotten asked for in words that no eraser was told. The answers and what
judges say of them are kept, in bytes, so that every number can be computed again from them.
"""

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from experiments.common import grids, runner
from experiments.common import judges as judges_lib
from experiments.common.evaluations import BY_LOSS, Arrays, Evaluation, Gap, sets
from experiments.common.evaluations import style_grid_seen as seen
from experiments.common.evaluations.generation import draw, require, some
from experiments.common.evaluations.style_grid_columns import COLUMNS, GAP
from experiments.common.evaluations.style_grid_figures import examples, figures
from experiments.common.measure import Bench, place
from unlearnjax import parallel
from unlearnjax.audit import alignment, canvas, summary
from unlearnjax.data import captions, concept_requests
from unlearnjax.data.concept_requests import Concept
from unlearnjax.report import table
from unlearnjax.types import Data, Task, Variables

# What is kept of a model in the middle of a sequence.
TRAILED = ("images", "seen_style", "seen_object")


class Context(NamedTuple):
    """What is made once.

    Attributes:
      bench: the problem.
      judges: who look at styles, and at objects.
      answers: `condition` `[N, L]` and `index` of the answer set, on the device.
      asked: `style`, `object` and whether `held_out`, `[N]` each, of the answer set.
      requests: what is forgotten, one request after another.
      pair: the task and the model of images and captions, if there is one.
      real: features `[2, M, D]` of real images that nothing was trained on, of what is kept.
      real_cells: `[S, O]`, how often all judges are right on real images.
      floor: `DISTANCES` of as many real images from these, and their `clip_pair`.
    """

    bench: Bench
    judges: Mapping[str, judges_lib.Judges]
    answers: Data
    asked: Mapping[str, np.ndarray]
    requests: list[list[Concept]]
    pair: tuple[Task, Variables] | None
    real: np.ndarray
    real_cells: np.ndarray
    floor: Mapping[str, float]


def prepare(run: runner.Run, bench: Bench) -> Context:
    """Trains the judges; says first how good they are.

    Raises:
      ValueError: for judges that real images confuse.
    """
    problem, dataset = bench.problem, bench.problem.dataset
    sizes = len(dataset.styles), len(dataset.class_names)
    judges = {
        label: judges_lib.train(bench, run, label, size, f"{label}_judge")
        for label, size in zip(seen.LABELS, sizes, strict=True)
    }
    held_out = problem.held_out
    said = _judged(judges, judges_lib.pixels(held_out["inputs"]))
    _require(bench, said, held_out, "real images", "evaluate.judges.train")
    right = [said[f"seen_{label}"] == held_out[label] for label in seen.LABELS]
    cells = [held_out[label] for label in seen.LABELS]
    requests = grids.requests(bench.config, dataset)
    answers, asked = answer_set(bench, requests)
    pair = None
    if bench.base is not None:
        pair = grids.pair(bench.config, dataset, bench.task), bench.base
    # Distances depend on the number of images, so that all of them are of as many.
    answered = int(seen.kept(asked, requests).sum())
    size = min(answered, len(problem.test), len(problem.retain))
    test, retain = (some(rows, size) for rows in (problem.test, problem.retain))
    context = Context(
        bench,
        judges,
        place(answers),
        asked,
        requests,
        pair,
        said["features"][:, test],
        canvas.cells((right[0] & right[1]).mean(0), *cells, sizes),
        {},
    )
    own = _judged(judges, judges_lib.pixels(problem.train["inputs"][retain]))
    floor = seen.distances(context.real, own["features"])
    if pair is not None:
        real = (held_out[name] for name in ("inputs", "condition"))
        floor["clip_pair"] = float(_aligned(bench, pair, *real).mean())
    return context._replace(floor=floor)


def answer_set(
    bench: Bench, requests: Sequence[Sequence[Concept]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Columns `condition` and `index`, and what they ask for: `style`, `object`, `held_out`.

    `config.evaluate.answers.per_cell` images of each style and object by the benchmark's template,
    and as many of each that is forgotten by those that are held out, in turn.
    """
    dataset, number = bench.problem.dataset, bench.config.evaluate.answers.per_cell
    names = dataset.styles, dataset.class_names
    templates = (captions.BENCHMARK, *captions.HELD_OUT)
    tokens = captions.prompts(dataset.vocabulary, *names, templates).tokens
    style, content = (own.ravel() for own in np.indices(tokens.shape[:2]))
    gone = concept_requests.covers(seen.everything(requests), style, content)
    turn = np.tile(1 + np.arange(number) % len(captions.HELD_OUT), int(gone.sum()))
    asked = {
        label: np.concatenate([np.repeat(own, number), np.repeat(own[gone], number)])
        for label, own in zip(seen.LABELS, (style, content), strict=True)
    }
    template = np.concatenate([np.zeros(number * len(style), int), turn])
    condition = tokens[asked["style"], asked["object"], template]
    index = np.arange(len(condition), dtype=np.int32)
    return {"condition": condition, "index": index}, {**asked, "held_out": template > 0}


def approve(context: Context, arrays: Sequence[Arrays]) -> None:
    """Says what each judge recognises of the originals' samples.

    Raises:
      ValueError: if one of these is too little: whether something is forgotten could then not be
        seen.
    """
    broken = int(np.sum([own["broken"] for own in arrays]))
    if broken:
        raise ValueError(
            f"{broken} of the originals' samples are not finite; lower config.train's learning_rate"
        )
    everything = {
        name: np.concatenate([own[name] for own in arrays], axis=-1)
        for name in (*seen.LABELS, "seen_style", "seen_object")
    }
    _require(context.bench, everything, everything, "the originals' samples", "config.train")


def observe(context: Context, task: Task, variables: Variables) -> Arrays:
    """Losses per example, and of N answers what was asked for, drawn and seen.

    `style`, `object` and `held_out` `[N]`; `images` `[N, H, W, 3]` in bytes, `broken`: how many are
    not finite; by both judges of either label `seen_style`, `seen_object` `[2, N]`, `style_probs`,
    `object_probs` `[2, N, C]` and `features` `[2, N, D]`, of objects; `aligned` `[N]`: cosines of
    images and captions; `leaf_sums`, `leaf_bytes`: checksums and sizes of the parameters.
    """
    bench = context.bench
    rng = runner.key(bench.config.seed, "answers")
    size = bench.config.evaluate.batch_size
    images = parallel.fetch(draw(task, variables, rng, context.answers, batch_size=size))
    broken = (~np.isfinite(np.asarray(images, np.float32))).any(axis=(1, 2, 3)).sum()
    pixels = judges_lib.pixels(images)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(parallel.fetch(variables["params"]))]
    found = {
        **sets.observe(bench, task, variables),
        "images": pixels,
        "broken": np.asarray(broken),
        **{name: _small(values) for name, values in context.asked.items()},
        **_judged(context.judges, pixels),
        "leaf_sums": np.array([zlib.crc32(leaf.tobytes()) for leaf in leaves], np.uint32),
        "leaf_bytes": np.array([leaf.nbytes for leaf in leaves], np.int64),
        "real_cells": context.real_cells,
    }
    if context.pair is not None:
        prompts = parallel.fetch(context.answers["condition"])
        found["aligned"] = _aligned(bench, context.pair, judges_lib.inputs(pixels), prompts)
    return found


def numbers(context: Context, arrays: Arrays, seed: int) -> table.Row:
    """Losses and membership by them, what the judges see, and distances to real images.

    Of a model that draws what is no image, what depends on samples is NaN.
    """
    per_set = sets.per_set(arrays)
    row = summary.set_means(per_set, ("loss",)) | summary.loss_attack(per_set, seed)
    requests = context.requests
    kept, gone = seen.kept(arrays, requests), seen.forgotten(arrays, requests)
    found = seen.seen_in(arrays, requests) | seen.surprise(arrays, requests)
    found |= seen.distances(context.real, arrays["features"][:, kept])
    for name, rows in {"clip_pair": kept, "clip_pair_forgotten": gone}.items():
        known = "aligned" in arrays
        found[name] = float(arrays["aligned"][rows].mean()) if known else float("nan")
    if arrays["broken"]:
        found = dict.fromkeys(found, float("nan"))
    return {**row, **found, **{f"{name}_floor": value for name, value in context.floor.items()}}


average_gap = functools.partial(sets.average_gap, names=GAP)


def against_oracles(
    context: Context, rows: Sequence[table.Row], arrays: Sequence[Arrays]
) -> list[table.Row]:
    """Rows with `average_gap`, `stored_bytes`, and means over oracles (of an oracle: over others).

    NaN where one of the two draws what is no image, and where there are no oracles.
    """
    oracles = [i for i, row in enumerate(rows) if row["method"] == "oracle"]
    originals = {
        row["seed"]: arrays[i] for i, row in enumerate(rows) if row["method"] == "original"
    }
    mean_of = lambda name: float(np.mean([rows[i][name] for i in oracles])) if oracles else np.nan
    ideal = {name: mean_of(name) for name in GAP}
    whole = lambda i: not arrays[i]["broken"]
    result = []
    for i, row in enumerate(rows):
        others = [j for j in oracles if j != i]
        found = [
            seen.apart(arrays[j], arrays[i], context.requests)
            for j in others
            if whole(i) and whole(j)
        ]
        names = ("total_variation", *(f"{name}_oracle" for name in seen.DISTANCES))
        complete = found and len(found) == len(others)
        mean = lambda k, found=found: float(np.mean([own[k] for own in found]))
        apart = {k: mean(k) if complete else float("nan") for k in names}
        apart["stored_bytes"] = seen.stored(originals.get(row["seed"]), arrays[i]) + row.get(
            "memory_bytes", 0.0
        )
        result.append({**row, **apart, "average_gap": average_gap(row, ideal)})
    return summary.anamnesis(result) if oracles and "relearn_steps" in rows[0] else result


def _small(values: np.ndarray) -> np.ndarray:
    """Labels in the smallest type, bytes for up to 256."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _judged(judges: Mapping[str, judges_lib.Judges], pixels: np.ndarray) -> dict[str, np.ndarray]:
    opinions = {label: judges_lib.judge(own, pixels) for label, own in judges.items()}
    stacked = lambda label, field: np.stack([getattr(own, field) for own in opinions[label]])
    probs = {f"{label}_probs": stacked(label, "probs") for label in seen.LABELS}
    said = {f"seen_{label}": _small(probs[f"{label}_probs"].argmax(-1)) for label in seen.LABELS}
    return {**said, **probs, "features": stacked("object", "features")}


def _require(bench: Bench, said: Arrays, labels: Arrays, what: str, remedy: str) -> None:
    """Prints how often each judge is right; raises `ValueError` if one is less than it must be."""
    for label in seen.LABELS:
        right = (said[f"seen_{label}"] == labels[label]).mean(axis=-1).tolist()
        least = bench.config.evaluate.judges[f"least_{label}"]
        require(right, least, f"the {label}s of {what}", remedy)


def _aligned(bench: Bench, pair: tuple[Task, Variables], images, prompts) -> np.ndarray:
    """`[N]` cosines of images in [-1, 1] and captions."""
    size = bench.config.evaluate.batch_size
    found = alignment.clip_pair(*pair, images, prompts, batch_size=size)
    return np.asarray(found, np.float32)


EVALUATION = Evaluation(
    prepare=prepare,
    observe=observe,
    numbers=numbers,
    against_oracles=against_oracles,
    relearn=BY_LOSS,
    gap=Gap(
        {
            "average_gap": "mean absolute difference of unlearning, in-domain and cross-domain "
            "accuracies"
        },
        average_gap,
    ),
    required_finite=(*sets.REQUIRED_FINITE, "retained_accuracy"),
    columns=COLUMNS,
    reproduced=(*GAP, "average_gap"),
    figures=figures,
    approve=approve,
    examples=examples,
    stages=tuple(name for label in seen.LABELS for name in judges_lib.names(f"{label}_judge")),
    trailed=TRAILED,
)
