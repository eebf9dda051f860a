"""Which training examples are to be forgotten: pure functions that return sorted index arrays.

All work on the host (NumPy): a forget set is chosen once, before anything is compiled.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


def whole_class(targets: np.ndarray, classes: Iterable[int]) -> np.ndarray:
    """Every example whose target is one of `classes`.

    Examples:
      >>> whole_class(np.array([0, 1, 2, 1]), [1])
      array([1, 3])
    """
    classes = [int(c) for c in classes]
    known = np.unique(targets).tolist()
    missing = sorted(set(classes) - set(known))
    if missing:
        raise ValueError(f"class must be one of {known}, got {', '.join(map(str, missing))}")
    return np.flatnonzero(np.isin(targets, classes))


def part_of_class(
    rng: np.random.Generator, targets: np.ndarray, class_id: int, fraction: float
) -> np.ndarray:
    """A random `fraction` of the examples of one class, at least one."""
    _validate_fraction(fraction)
    members = whole_class(targets, [class_id])
    return np.sort(rng.choice(members, max(1, round(fraction * len(members))), replace=False))


def random_fraction(rng: np.random.Generator, num_examples: int, fraction: float) -> np.ndarray:
    """A uniformly random `fraction` of all examples, at least one."""
    _validate_fraction(fraction)
    return np.sort(rng.choice(num_examples, max(1, round(fraction * num_examples)), replace=False))


def random_count(rng: np.random.Generator, num_examples: int, count: int) -> np.ndarray:
    """`count` examples, uniformly random."""
    if not 1 <= count < num_examples:
        raise ValueError(f"count must lie in [1, {num_examples}), got {count}")
    return np.sort(rng.choice(num_examples, count, replace=False))


def extremes(values: np.ndarray, num_high: int, num_low: int = 0) -> np.ndarray:
    """The examples with the highest and those with the lowest values, such as hardness scores."""
    if min(num_high, num_low) < 0 or not 1 <= num_high + num_low < len(values):
        raise ValueError(
            f"num_high and num_low must be >= 0 and together lie in [1, {len(values)}), got "
            f"{num_high} and {num_low}"
        )
    order = np.argsort(values, kind="stable")
    return np.sort(np.concatenate([order[:num_low], order[len(order) - num_high :]]))


def in_band(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Every example with `low <= value <= high`.

    Examples:
      >>> in_band(np.array([20.0, 35.0, 50.0]), 30.0, 60.0)
      array([1, 2])
    """
    if not low < high:
        raise ValueError(f"band must have low < high, got {low} and {high}")
    return np.flatnonzero((values >= low) & (values <= high))


def by_field(values: np.ndarray, wanted: Sequence) -> np.ndarray:
    """Every example whose metadata field (an identity, a source) is one of `wanted`.

    Examples:
      >>> by_field(np.array([7, 8, 7, 9]), [7])  # of the speakers, number 7
      array([0, 2])
    """
    known = np.unique(values)
    missing = [w for w in wanted if w not in known]
    if missing:
        raise ValueError(f"field value must be one of {known.tolist()[:50]}, got {missing}")
    return np.flatnonzero(np.isin(values, wanted))


def explicit(indices: Iterable[int], num_examples: int) -> np.ndarray:
    """The given positions, each at most once and within the data."""
    result = np.unique(np.asarray(list(indices), dtype=np.int64))
    if len(result) and (result[0] < 0 or result[-1] >= num_examples):
        raise ValueError(
            f"forget indices must lie in [0, {num_examples}), got {result[0]}..{result[-1]}"
        )
    return result


def complement(forget: np.ndarray, num_examples: int) -> np.ndarray:
    """The retain set of a forget set; raises `ValueError` if either would be empty.

    Examples:
      >>> complement(np.array([1, 3]), 5)
      array([0, 2, 4])
    """
    if len(forget) == 0:
        raise ValueError("the forget set is empty; it must hold at least one training example")
    if len(forget) >= num_examples:
        raise ValueError(
            f"the forget set is the whole training set ({num_examples} examples); "
            "at least one must be retained"
        )
    return np.setdiff1d(np.arange(num_examples), forget)


class Selection(NamedTuple):
    """A forget set in the training data, and the unseen examples it is to be compared with.

    Attributes:
      forget: positions in the training data.
      unseen: positions in the held-out data that come from the forget set's distribution: the same
        classes, field values or band; identities that nobody trained on, for identities; all of it
        for random and explicit sets.
      test: positions in the held-out data from the retain set's distribution: those that are not
        of a class, field value, identity or band forgotten as a whole.
    """

    forget: np.ndarray
    unseen: np.ndarray
    test: np.ndarray


SPECS = (
    "class:3, class:3+5, part:3:0.5 (half of class 3), random:0.1, random:50 (so many), "
    "field:NAME:VALUE+VALUE, identity:VALUE+VALUE, band:LOW:HIGH (regression targets), "
    "indices:0+17+42"
)


def select(spec: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    """The forget set that a short text describes.

    Args:
      spec: one of `SPECS`; '+' separates several values.
      train: training data as NumPy arrays with `targets` and, for `field:`, that field.
      held_out: data that no model trains on, in the same form.
      rng: source of the random choices.

    Raises:
      ValueError: if `spec` is not understood, names what `train` has not, or selects nothing.

    Examples:
      >>> train = {"targets": np.array([0, 1, 1, 2]), "speaker": np.array([5, 5, 6, 6])}
      >>> select("class:1", train, train, np.random.default_rng(0)).forget
      array([1, 2])
      >>> select("field:speaker:5", train, train, np.random.default_rng(0)).forget
      array([0, 1])
    """
    kind, _, rest = spec.partition(":")
    targets, held_targets = train["targets"], held_out["targets"]
    num_train, everything = len(targets), np.arange(len(held_targets))
    try:
        if kind == "class":
            classes = [int(c) for c in rest.split("+")]
            forget = whole_class(targets, classes)
            unseen = np.flatnonzero(np.isin(held_targets, classes))
            return Selection(forget, unseen, np.setdiff1d(everything, unseen))
        if kind == "part":
            class_id, fraction = rest.split(":")
            forget = part_of_class(rng, targets, int(class_id), float(fraction))
            return Selection(forget, np.flatnonzero(held_targets == int(class_id)), everything)
        if kind == "random":
            if rest.isdigit():
                forget = random_count(rng, num_train, int(rest))
            else:
                forget = random_fraction(rng, num_train, float(rest))
            return Selection(forget, everything, everything)
        if kind == "field":
            name, values = rest.split(":")
            if name not in train:
                raise ValueError(f"field must be one of {sorted(train)}, got {name!r}")
            wanted = np.asarray(values.split("+")).astype(train[name].dtype)
            unseen = np.flatnonzero(np.isin(held_out[name], wanted))
            forget = by_field(train[name], wanted)
            return Selection(forget, unseen, np.setdiff1d(everything, unseen))
        if kind == "identity":
            if "identity" not in train:
                raise ValueError(f"the data has no field 'identity', it has {sorted(train)}")
            people = [int(v) for v in rest.split("+")]
            forget = by_field(train["identity"], people)
            known = np.isin(held_out["identity"], train["identity"])
            if known.all():
                raise ValueError("every identity of the held-out data is in the training data too")
            gone = np.isin(held_out["identity"], people)
            return Selection(forget, np.flatnonzero(~known), np.flatnonzero(known & ~gone))
        if kind == "band":
            low, high = (float(v) for v in rest.split(":"))
            forget, unseen = (
                in_band(part.get("raw_targets", part["targets"]), low, high)
                for part in (train, held_out)
            )
            return Selection(forget, unseen, np.setdiff1d(everything, unseen))
        if kind == "indices":
            forget = explicit((int(i) for i in rest.split("+") if i), num_train)
            return Selection(forget, everything, everything)
    except ValueError as error:
        raise ValueError(f"forget={spec!r}: {error}") from error
    raise ValueError(f"forget must be one of {SPECS}; got {spec!r}")


def _validate_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
