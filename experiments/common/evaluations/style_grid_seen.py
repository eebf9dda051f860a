"""What the answers of one model on a grid of styles and objects amount to, or of two.

Of what `evaluations.style_grid` keeps of a model and nothing else, so that whoever has its arrays
has the numbers.
"""

from collections.abc import Sequence

import numpy as np

from experiments.common import judges as judges_lib
from experiments.common.evaluations import Arrays
from experiments.common.evaluations.generation import some
from unlearnjax.audit import canvas, generation
from unlearnjax.data import concept_requests
from unlearnjax.data.concept_requests import Concept
from unlearnjax.report import table

LABELS = ("style", "object")
DISTANCES = ("fd", "kd")
Requests = Sequence[Sequence[Concept]]


def seen_in(arrays: Arrays, requests: Requests) -> table.Row:
    """The columns of `canvas.DEFINITIONS` and what asks in other words, means over the judges.

    Of several requests, the unlearning accuracy is their mean, and `rebound` is how much of it the
    later ones cost the earlier ones.
    """
    own = plain(arrays)
    labels = [arrays[label] for label in LABELS]
    pairs = list(zip(arrays["seen_style"], arrays["seen_object"], strict=True))

    def judged(which: np.ndarray, concepts: Sequence[Concept]) -> table.Row:
        found = [canvas.judged(*(x[which] for x in (*pair, *labels)), concepts) for pair in pairs]
        return {name: float(np.mean([x[name] for x in found])) for name in found[0]}

    row = judged(own, everything(requests))
    one_by_one = [judged(own, concepts)["unlearning_accuracy"] for concepts in requests]
    asked_anew = [judged(~own, concepts)["unlearning_accuracy"] for concepts in requests]
    row["unlearning_accuracy"] = float(np.mean(one_by_one))
    row["unlearning_accuracy_paraphrased"] = float(np.mean(asked_anew))
    row["judges_agree"] = float(
        ((pairs[0][0] == pairs[1][0]) & (pairs[0][1] == pairs[1][1])).mean()
    )
    row["rebound"] = float("nan")
    if len(requests) > 1 and "seen_style_after0" in arrays:
        triangle, _ = sequence(arrays, requests)
        row["rebound"] = float(np.mean(np.diag(triangle)[:-1] - triangle[-1, :-1]))
    return row


def sequence(arrays: Arrays, requests: Requests) -> tuple[np.ndarray, np.ndarray]:
    """`canvas.sequence` of a model asked one request after another, mean over the judges."""
    rows = plain(arrays)
    ends = [f"_after{place}" for place in range(len(requests) - 1)] + [""]
    seen = [np.stack([arrays[f"seen_{label}{end}"] for end in ends])[..., rows] for label in LABELS]
    labels = [arrays[label][rows] for label in LABELS]
    found = [
        canvas.sequence(seen[0][:, judge], seen[1][:, judge], *labels, requests)
        for judge in range(judges_lib.NUMBER)
    ]
    return tuple(np.mean(own, axis=0) for own in zip(*found, strict=True))


def surprise(arrays: Arrays, requests: Requests) -> dict[str, float]:
    """`p_forgotten` and `entropy`, see `generation.judged`, of the label that is forgotten."""
    gone, labels = forgotten(arrays, requests), _labelled(requests)
    probs = arrays[f"{labels[0]}_probs"]
    condition = arrays[labels[0]].astype(int)
    cells = np.indices([probs.shape[-1]])
    if len(labels) > 1:
        other = arrays[f"{labels[1]}_probs"]
        condition = condition * other.shape[-1] + arrays[labels[1]]
        cells = np.indices((probs.shape[-1], other.shape[-1])).reshape(2, -1)
        probs = (probs[..., :, None] * other[..., None, :]).reshape(*probs.shape[:2], -1)
    nothing = np.full(cells.shape[1], -1)
    of = dict(zip(labels, cells, strict=True))
    covered = concept_requests.covers(
        everything(requests), of.get("style", nothing), of.get("object", nothing)
    )
    classes = np.flatnonzero(covered).tolist()
    found = [generation.judged(own[gone], condition[gone], classes) for own in probs]
    return {k: float(np.mean([own[k] for own in found])) for k in ("p_forgotten", "entropy")}


def apart(oracle: Arrays, own: Arrays, requests: Requests) -> dict[str, float]:
    """How far one model's answers are from an oracle's, mean over the judges."""
    gone, labels = forgotten(own, requests), _labelled(requests)
    rows = kept(own, requests)
    near = distances(oracle["features"][:, rows], own["features"][:, rows])

    def shares(arrays: Arrays, judge: int) -> np.ndarray:
        sizes = [arrays[f"{label}_probs"].shape[-1] for label in labels]
        seen = [arrays[f"seen_{label}"][judge, gone].astype(int) for label in labels]
        counts = np.bincount(np.ravel_multi_index(seen, sizes), minlength=int(np.prod(sizes)))
        return counts / counts.sum()

    varied = [
        generation.total_variation(shares(oracle, judge), shares(own, judge))
        for judge in range(judges_lib.NUMBER)
    ]
    of_oracle = {f"{name}_oracle": value for name, value in near.items()}
    return {**of_oracle, "total_variation": float(np.mean(varied))}


def distances(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """`DISTANCES` between as many features of each `[2, M, D]`, mean over the judges."""
    size = min(one.shape[1], other.shape[1])
    pairs = [
        [x[some(np.arange(len(x)), size)] for x in pair] for pair in zip(one, other, strict=True)
    ]
    return {
        "fd": float(np.mean([generation.frechet_distance(*pair) for pair in pairs])),
        "kd": float(np.mean([generation.kernel_distance(*pair) for pair in pairs])),
    }


def stored(original: Arrays | None, own: Arrays) -> float:
    """Bytes of the parameters that differ from the original's; all, where there are others."""
    sizes, sums = own["leaf_bytes"], own["leaf_sums"]
    if original is None or original["leaf_sums"].shape != sums.shape:
        return float(sizes.sum())
    return float(sizes[sums != original["leaf_sums"]].sum())


def forgotten(arrays: Arrays, requests: Requests) -> np.ndarray:
    """`[N]`, which answers to the benchmark's template were asked for by what is forgotten."""
    gone = concept_requests.covers(everything(requests), arrays["style"], arrays["object"])
    return gone & plain(arrays)


def kept(arrays: Arrays, requests: Requests) -> np.ndarray:
    """`[N]`, those by what is not."""
    return plain(arrays) & ~forgotten(arrays, requests)


def plain(arrays: Arrays) -> np.ndarray:
    """`[N]`, those to the benchmark's template, of everything."""
    return ~np.asarray(arrays["held_out"], bool)


def everything(requests: Requests) -> list[Concept]:
    """The concepts of all requests."""
    return [concept for concepts in requests for concept in concepts]


def _labelled(requests: Requests) -> tuple[str, ...]:
    """What tells what is forgotten: the style, the object, or both."""
    concepts = everything(requests)
    return tuple(
        label for label in LABELS if any(getattr(own, label) is not None for own in concepts)
    )
