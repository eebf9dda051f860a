"""What judges see in images by style and object: the numbers of UnlearnCanvas.

Zhang et al., "UnlearnCanvas", NeurIPS 2024 Datasets and Benchmarks (arXiv 2402.11846). A model
answers prompts of every style and object; one judge says which style an image has, another one
which object it shows. What was forgotten must not be seen any more, all else must be. The published
text and script do not count the same images: the README leaves prompts of what is forgotten out of
in-domain and cross-domain accuracy, the script averages the other label over all prompts. Here they
are left out, and what became of the other label in these stands by itself.
"""

from collections.abc import Sequence

import numpy as np

from unlearnjax.data.concept_requests import Concept, covers

DEFINITIONS = {
    "unlearning_accuracy": "UA: 1 - share of the images asked for by what is forgotten in which it "
    "is seen: the style for styles, the object for objects, both in one image for pairs; where "
    "several are forgotten, any of them",
    "in_domain": "IRA: of the images asked for by other styles (objects) the share in which that "
    "style (object) is seen",
    "cross_domain": "CRA: of the same images the share in which their object (style) is seen",
    "cross_domain_target": "CRA of the target: share of the forgotten style's (object's) images in "
    "which their object (style) is seen",
    "style_kept": "SC, for pairs: of the images asked for by a forgotten pair's style and another "
    "object the share in which the style is seen",
    "object_kept": "OC, for pairs: of those by a forgotten pair's object and another style the "
    "share in which the object is seen",
    "others_kept": "UP, for pairs: of all images that share neither the share in which both their "
    "style and their object are seen",
    "retained_accuracy": "mean of style and object accuracy on images asked for by nothing "
    "forgotten: (IRA + CRA) / 2",
}


def judged(
    seen_style: np.ndarray,
    seen_object: np.ndarray,
    style: np.ndarray,
    content: np.ndarray,
    forgotten: Sequence[Concept],
) -> dict[str, float]:
    """What a judge of styles and one of objects say of images that were asked for by both.

    Needs: judges, whose errors on real images bound every number; the original's and the oracle's
    values beside them. Value of a perfect unlearner: the oracle's. Null value: none of its own.

    Args:
      seen_style, seen_object: `[N]` numbers, what either judge sees.
      style, content: `[N]` numbers, the style and the object that each image was asked for by.
      forgotten: all of one kind; `retained_accuracy` alone is given of a mixture.

    Returns:
      `DEFINITIONS`; NaN where a number has no meaning for the kind, or there are no such images.

    Raises:
      ValueError: for arrays of other shapes or types, or nothing forgotten.

    Examples:
      >>> seen = judged([0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [Concept(style=1)])
      >>> seen["unlearning_accuracy"], seen["in_domain"], seen["cross_domain_target"]
      (0.5, 1.0, 0.5)
    """
    seen_style, seen_object, style, content = _labels(
        seen_style=seen_style, seen_object=seen_object, style=style, content=content
    )
    kinds = _kinds(forgotten)
    right_style, right_object = seen_style == style, seen_object == content
    gone = covers(forgotten, style, content)
    still = covers(forgotten, seen_style, seen_object)
    found = dict.fromkeys(DEFINITIONS, float("nan"))
    found["retained_accuracy"] = (_mean(right_style[~gone]) + _mean(right_object[~gone])) / 2
    if len(kinds) > 1:
        return found
    found["unlearning_accuracy"] = _mean(~still[gone])
    (kind,) = kinds
    if kind == (True, True):
        shares = lambda own, numbers: np.isin(own, numbers) & ~gone
        of_style = shares(style, [concept.style for concept in forgotten])
        of_object = shares(content, [concept.object for concept in forgotten])
        found["style_kept"] = _mean(right_style[of_style])
        found["object_kept"] = _mean(right_object[of_object])
        others = ~(gone | of_style | of_object)
        found["others_kept"] = _mean((right_style & right_object)[others])
        return found
    own, other = (right_style, right_object) if kind[0] else (right_object, right_style)
    found["in_domain"] = _mean(own[~gone])
    found["cross_domain"] = _mean(other[~gone])
    found["cross_domain_target"] = _mean(other[gone])
    return found


def sequence(
    seen_style: np.ndarray,
    seen_object: np.ndarray,
    style: np.ndarray,
    content: np.ndarray,
    requests: Sequence[Sequence[Concept]],
) -> tuple[np.ndarray, np.ndarray]:
    """What became of each of K requests as further ones followed.

    Args:
      seen_style, seen_object: `[K, N]`, what judges see in the answers of the model after each.
      style, content: `[N]`, what these were asked for by.
      requests: K, each of concepts of one kind, in their order.

    Returns:
      `[K, K]`: in row i the unlearning accuracy of every request up to the i-th after it, NaN
      above the diagonal; and `[K]`: after each `retained_accuracy` on what is never requested.

    Raises:
      ValueError: see `judged`.
    """
    number = len(requests)
    rows = [np.asarray(seen) for seen in (seen_style, seen_object)]
    if not number or any(row.ndim != 2 or len(row) != number for row in rows):
        raise ValueError(
            f"seen_style and seen_object must be [K, N] of the {number} requests, got "
            f"{rows[0].shape} and {rows[1].shape}"
        )
    everything = [concept for request in requests for concept in request]
    triangle, retained = np.full((number, number), np.nan), np.zeros(number)
    for after, seen in enumerate(zip(*rows, strict=True)):
        for place in range(after + 1):
            found = judged(*seen, style, content, requests[place])
            triangle[after, place] = found["unlearning_accuracy"]
        retained[after] = judged(*seen, style, content, everything)["retained_accuracy"]
    return triangle, retained


def cells(
    values: np.ndarray, style: np.ndarray, content: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """`[S, O]`: means of `[N]` values by the style and the object they belong to; NaN of none.

    Raises:
      ValueError: for arrays of other shapes or types, or labels beyond the shape.

    Examples:
      >>> cells(np.array([1.0, 0.0, 1.0]), [0, 0, 1], [0, 0, 1], (2, 2)).tolist()
      [[0.5, nan], [nan, 1.0]]
    """
    style, content = _labels(style=style, content=content)
    values = np.asarray(values, np.float64)
    outside = (style >= shape[0]) | (content >= shape[1]) | (style < 0) | (content < 0)
    if values.shape != style.shape or outside.any():
        raise ValueError(
            f"values must be [N] with labels within {shape}, got {values.shape} and labels up to "
            f"{style.max(initial=0)}, {content.max(initial=0)}"
        )
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (style, content), values)
    np.add.at(count, (style, content), 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _labels(**arrays: np.ndarray) -> list[np.ndarray]:
    """`[N]` whole numbers, wide enough to be compared."""
    found = [np.asarray(array) for array in arrays.values()]
    if (
        any(x.ndim != 1 or x.dtype.kind not in "iu" for x in found)
        or len({x.shape for x in found}) > 1
    ):
        raise ValueError(
            f"{', '.join(arrays)} must be [N] whole numbers, got "
            f"{', '.join(f'{x.dtype} {list(x.shape)}' for x in found)}"
        )
    return [x.astype(np.int64) for x in found]


def _kinds(forgotten: Sequence[Concept]) -> set[tuple[bool, bool]]:
    kinds = {(concept.style is not None, concept.object is not None) for concept in forgotten}
    if not kinds or (False, False) in kinds:
        raise ValueError(
            f"forgotten must be concepts with a style or an object, got {list(forgotten)}"
        )
    return kinds


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
