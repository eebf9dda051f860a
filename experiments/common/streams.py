"""Streams of requests to learn and to forget rows of a training set: host-side, NumPy."""

from typing import NamedTuple

import numpy as np


class Event(NamedTuple):
    """One request.

    Attributes:
      kind: 'learn' or 'forget'.
      rows: positions in the training data.
      name: what it is, e.g. 'class 3'.
    """

    kind: str
    rows: np.ndarray
    name: str


def class_incremental(targets: np.ndarray, rng: np.random.Generator) -> list[Event]:
    """Half of the classes, then one by one; then samples, half a class and classes go."""
    classes = np.unique(targets)
    if len(classes) < 3:  # two go as wholes
        raise ValueError(
            f"stream class_incremental takes three classes or more, got {len(classes)}"
        )
    base = classes[: len(classes) // 2]
    events = [Event("learn", np.flatnonzero(np.isin(targets, base)), "base classes")]
    for c in classes[len(base) :]:
        events.append(Event("learn", np.flatnonzero(targets == c), f"class {c}"))
    left = np.ones(len(targets), bool)
    for number in range(3):
        rows = rng.choice(np.flatnonzero(left), len(targets) // 50, replace=False)
        left[rows] = False
        events.append(Event("forget", np.sort(rows), f"samples {number}"))
    for c, share in ((classes[-1], 0.5), (classes[0], 1.0), (classes[-2], 1.0)):
        members = np.flatnonzero(left & (targets == c))
        rows = np.sort(rng.choice(members, round(share * len(members)), replace=False))
        left[rows] = False
        events.append(Event("forget", rows, f"{'half of ' if share < 1 else ''}class {c}"))
    return events


def interleaved(targets: np.ndarray, rng: np.random.Generator) -> list[Event]:
    """Class after class is learned, and after each a twentieth of what is known forgotten."""
    events, left = [], np.zeros(len(targets), bool)
    for c in np.unique(targets):
        rows = np.flatnonzero(targets == c)
        left[rows] = True
        events.append(Event("learn", rows, f"class {c}"))
        known = np.flatnonzero(left)
        rows = np.sort(rng.choice(known, len(known) // 20, replace=False))
        left[rows] = False
        events.append(Event("forget", rows, f"samples after class {c}"))
    return events


def adversarial(targets: np.ndarray, rng: np.random.Generator, count: int = 60) -> list[Event]:
    """All is learned at once; then example after example of one class is to be forgotten."""
    victim = np.unique(targets)[-1]
    rows = rng.permutation(np.flatnonzero(targets == victim))[:count]
    events = [Event("learn", np.arange(len(targets)), "everything")]
    return events + [Event("forget", np.array([r]), f"example {r}") for r in rows]


def validate(name: str, events: list[Event], size: int) -> None:
    """Raises `ValueError` if a request is empty, or leaves nothing of the `size` training rows."""
    left = np.zeros(size, bool)
    for event in events:
        left[event.rows] = event.kind == "learn"
        if not len(event.rows) or not left.any():
            what = "is about no example" if left.any() else "leaves none"
            raise ValueError(
                f"stream {name} takes more training examples than {size}: its request "
                f"{event.name!r} {what}"
            )


STREAMS = {
    "class_incremental": class_incremental,
    "interleaved": interleaved,
    "adversarial": adversarial,
}
