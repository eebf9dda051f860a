"""What is to be forgotten of a grid of styles and objects, and what takes its place.

A style, an object, or one in the other: as rows of the grid, and as the captions that name it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data import captions
from unlearnjax.data.forget_sets import Selection, complement
from unlearnjax.data.style_grid import PHOTO, StyleGrid

SPECS = (
    "style:neon, style:neon+sketch, object:three, pair:neon/three, or one after another "
    "sequence:neon+three+sketch/four"
)


class Concept(NamedTuple):
    """What is to be forgotten: a style, an object, or, of a pair, one in the other; by number."""

    style: int | None = None
    object: int | None = None


def requested(spec: str, styles: Sequence[str], objects: Sequence[str]) -> list[list[Concept]]:
    """What a short text asks to forget: requests in their order, each of concepts.

    Args:
      spec: one of `SPECS`; '+' separates several concepts, of one request but for `sequence`.
      styles, objects: names by number.

    Raises:
      ValueError: for what is not understood, a name that there is not (it says which is near), and
        a concept that is named twice.

    Examples:
      >>> requested("style:neon", ["photo", "neon"], ["zero", "one"])
      [[Concept(style=1, object=None)]]
      >>> requested("sequence:one+neon/zero", ["photo", "neon"], ["zero", "one"])
      [[Concept(style=None, object=1)], [Concept(style=1, object=0)]]
    """
    kind, _, rest = spec.partition(":")
    roles = {"style": styles, "object": objects}
    try:
        if kind not in (*roles, "pair", "sequence"):
            near = checks.near([kind], (*roles, "pair", "sequence"))
            raise ValueError(f"must be one of {SPECS}{near}")
        found = []
        for text in rest.split("+"):
            if kind in roles:
                found.append(Concept(**{kind: _number(text, roles[kind], kind)}))
            elif "/" in text or kind == "pair":
                found.append(_pair(text, styles, objects))
            else:
                number = _number(text, (*styles, *objects), "style or object")
                beyond = number - len(styles)
                found.append(Concept(number) if beyond < 0 else Concept(object=beyond))
        if len(set(found)) < len(found):
            raise ValueError("each concept must be named once")
    except ValueError as error:
        raise ValueError(f"forget={spec!r}: {error}") from error
    return [[concept] for concept in found] if kind == "sequence" else [found]


def covers(concepts: Sequence[Concept], style: np.ndarray, content: np.ndarray) -> np.ndarray:
    """`[N]`, whether what has that style and shows that object is of one of the concepts."""
    style, content = np.asarray(style), np.asarray(content)
    return np.any([_is_of(concept, style, content) for concept in concepts], axis=0)


def select(spec: str, dataset: StyleGrid, train: dict, held_out: dict) -> Selection:
    """The rows of a request, or of all of a sequence; see `requested` and `forget_sets.Selection`.

    Raises:
      ValueError: see `requested`; and where nothing would be retained.
    """
    requests = requested(spec, dataset.styles, dataset.class_names)
    concepts = [concept for request in requests for concept in request]
    gone, unseen = (covers(concepts, own["style"], own["object"]) for own in (train, held_out))
    try:
        complement(np.flatnonzero(gone), len(gone))
    except ValueError as error:
        raise ValueError(f"forget={spec!r}: {error}") from error
    return Selection(np.flatnonzero(gone), np.flatnonzero(unseen), np.flatnonzero(~unseen))


def anchors(
    concepts: Sequence[Concept],
    dataset: StyleGrid,
    named: str | None = None,
    before: Sequence[Concept] = (),
) -> list[Concept]:
    """What each concept becomes: the style or the object, or both, that stand in its place.

    A style becomes photo, an object the next one that is not forgotten; a pair keeps its object in
    the photo's style. Where it is photo that is forgotten, the first style that is not.

    Args:
      concepts: of one request.
      dataset: the grid.
      named: a style or an object, of the kind that all concepts are of, or a pair, to replace the
        default with.
      before: what earlier requests have forgotten, which nothing becomes either, in whole or in
        part: no pair a forgotten style in its object, no style one of which a pair is forgotten.

    Raises:
      ValueError: for a name that there is not or is of another kind, an anchor that is forgotten
        itself, and where nothing is left to become.
    """
    styles, objects = dataset.styles, dataset.class_names
    gone = (*before, *concepts)
    if named is not None:
        anchor = _anchor(named, styles, objects)
        for concept in concepts:
            if [own is None for own in anchor] != [own is None for own in concept]:
                raise ValueError(
                    f"anchor must be of the kind of what is forgotten, {_kind(concept)}, got "
                    f"{named!r}, {_kind(anchor)}"
                )
        if any(_meet(anchor, own) for own in gone):
            raise ValueError(f"anchor must not be forgotten itself, got {named!r}")
        return [anchor] * len(concepts)
    first = styles.index(PHOTO) if PHOTO in styles else 0
    return [_replaced(concept, gone, len(styles), len(objects), first) for concept in concepts]


def forgetting(
    rows: Mapping[str, np.ndarray],
    concepts: Sequence[Concept],
    becomes: Sequence[Concept],
    dataset: StyleGrid,
) -> dict[str, np.ndarray]:
    """The rows of a request with what erasers are told of them.

    Args:
      rows: of `StyleGrid.train`, each of one of the concepts.
      concepts, becomes: see `anchors`.
      dataset: the grid.

    Returns:
      The rows with `concept` `[N, L]` booleans, the positions in `condition` at which what is
      forgotten is named; `anchor.condition` and `anchor.concept`, the same caption of what it
      becomes, and where that is named; `alone.condition` and `alone.concept`, a caption that names
      nothing else, such as 'neon style'. `captions` `[N, P, L]`, and in their places `concepts`,
      `anchor.captions` and `anchor.concepts`, are of the templates that name it, without those
      held out; `alone.captions` and `alone.concepts` of those among them that name nothing else.
    """
    roles = [
        role for role, value in zip(Concept._fields, concepts[0], strict=True) if value is not None
    ]
    names = dataset.styles, dataset.class_names
    found = captions.prompts(dataset.vocabulary, *names, captions.TEMPLATES)
    style, content = rows["style"], rows["object"]
    anchor_style, anchor_object = style.copy(), content.copy()
    for concept, other in zip(concepts, becomes, strict=True):
        own = _is_of(concept, style, content)
        if other.style is not None:
            anchor_style[own] = other.style
        if other.object is not None:
            anchor_object[own] = other.object
    marked = np.any([getattr(found, role) for role in roles], axis=0)
    usable = captions.naming(captions.TEMPLATES, *roles)
    others = [role for role in Concept._fields if role not in roles]
    beside = set(captions.naming(captions.TEMPLATES, *others)) if others else set()
    alone = [i for i in usable if i not in beside]
    number = rows["captions"].shape[1]
    # As many as the retain set has, so that both lie in one batch.
    turns = lambda templates: [templates[i % len(templates)] for i in range(number)]
    every = lambda table, *place: table[place][:, turns(usable)]
    return {
        **rows,
        "concept": marked[style, content, 0],
        "anchor.condition": found.tokens[anchor_style, anchor_object, 0],
        "anchor.concept": marked[anchor_style, anchor_object, 0],
        "alone.condition": found.tokens[style, content, alone[0]],
        "alone.concept": marked[style, content, alone[0]],
        "alone.captions": found.tokens[style, content][:, turns(alone)],
        "alone.concepts": marked[style, content][:, turns(alone)],
        "captions": every(found.tokens, style, content),
        "concepts": every(marked, style, content),
        "anchor.captions": every(found.tokens, anchor_style, anchor_object),
        "anchor.concepts": every(marked, anchor_style, anchor_object),
    }


def name_of(concept: Concept, dataset: StyleGrid) -> str:
    """'neon', 'three' or 'neon/three'."""
    names = dataset.styles, dataset.class_names
    pairs = zip(names, concept, strict=True)
    return "/".join(own[number] for own, number in pairs if number is not None)


def _is_of(concept: Concept, style: np.ndarray, content: np.ndarray) -> np.ndarray:
    found = np.ones(style.shape, bool)
    for own, values in zip(concept, (style, content), strict=True):
        if own is not None:
            found &= values == own
    return found


def _anchor(text: str, styles: Sequence[str], objects: Sequence[str]) -> Concept:
    try:
        found = requested(f"sequence:{text}", styles, objects)
    except ValueError as error:
        raise ValueError(f"anchor {text!r}: {error.__cause__}") from error
    if len(found) > 1:
        raise ValueError(f"anchor must be one concept, got {text!r}")
    return found[0][0]


def _replaced(
    concept: Concept, forgotten: Sequence[Concept], num_styles: int, num_objects: int, first: int
) -> Concept:
    """What a concept becomes by default."""
    if concept.style is None:
        order = [(concept.object + i) % num_objects for i in range(1, num_objects)]
        options = [Concept(object=number) for number in order]
    else:
        order = [first, *(number for number in range(num_styles) if number != first)]
        options = [concept._replace(style=number) for number in order]
    left = [own for own in options if not any(_meet(own, other) for other in forgotten)]
    if not left:
        raise ValueError(f"something of the kind must be retained, {_kind(concept)}, to become it")
    return left[0]


def _meet(one: Concept, other: Concept) -> bool:
    """Whether one is the other, or a pair is of the style or the object that the other one is."""
    told = [pair for pair in zip(one, other, strict=True) if None not in pair]
    return bool(told) and all(own == value for own, value in told)


def _kind(concept: Concept) -> str:
    style, content = (own is not None for own in concept)
    return "a pair" if style and content else "a style" if style else "an object"


def _pair(text: str, styles: Sequence[str], objects: Sequence[str]) -> Concept:
    style, slash, content = text.partition("/")
    if not slash:
        raise ValueError(f"a pair must be like STYLE/OBJECT, got {text!r}")
    return Concept(_number(style, styles, "style"), _number(content, objects, "object"))


def _number(text: str, names: Sequence[str], what: str) -> int:
    if text not in names:
        raise ValueError(
            f"{what} must be one of {', '.join(names)}, got {text!r}{checks.near([text], names)}"
        )
    return list(names).index(text)
