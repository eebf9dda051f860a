"""Which training examples are to be forgotten: pure functions that return sorted index arrays.

All work on the host (NumPy): a forget set is chosen once, before anything is compiled.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.data import fields, validation


def whole_class(targets: np.ndarray, classes: Iterable[int]) -> np.ndarray:
    """Every example whose target is one of `classes`.

    Raises:
      ValueError: for a class that no example has; and if targets are no classes but numbers.

    Examples:
      >>> whole_class(np.array([0, 1, 2, 1]), [1])
      array([1, 3])
    """
    targets = np.asarray(targets)
    if targets.dtype.kind == "f":
        raise ValueError(f"classes need class numbers as targets, got {targets.dtype}")
    known, wanted = fields.of(targets), [fields.printed(c) for c in classes]
    missing = [c for c in wanted if not fields.has(known, c)]
    if missing:
        names = list(known.known)
        raise ValueError(f"class must be one of {names}, got {', '.join(missing) or 'none'}")
    return fields.rows(known, wanted)


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
    """The examples with the highest and those with the lowest values, such as hardness scores.

    Raises:
      ValueError: for more examples than there are, and for NaN, which is neither high nor low.
    """
    if min(num_high, num_low) < 0 or not 1 <= num_high + num_low < len(values):
        raise ValueError(
            f"num_high and num_low must be >= 0 and together lie in [1, {len(values)}), got "
            f"{num_high} and {num_low}"
        )
    missing = np.flatnonzero(np.isnan(values))
    if missing.size:
        raise ValueError(f"values must be numbers, got NaN in row {validation.listed(missing)}")
    order = np.argsort(values, kind="stable")
    return np.sort(np.concatenate([order[:num_low], order[len(order) - num_high :]]))


def in_band(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Every example with `low <= value <= high`; NaN lies in no band.

    A value is what it prints as: 0.1 in float32 lies in a band that ends at 0.1.

    Examples:
      >>> in_band(np.array([20.0, 35.0, 50.0]), 30.0, 60.0)
      array([1, 2])
    """
    if not low < high:
        raise ValueError(f"band must have low < high, got {low} and {high}")
    values = np.asarray(values)
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        values = values.astype(str).astype(np.float64)
    return np.flatnonzero((values >= low) & (values <= high))


def by_field(values: np.ndarray, wanted: Sequence) -> np.ndarray:
    """Every example whose metadata field (an identity, a source) is one of `wanted`.

    Args:
      values: `[N]`, of any type.
      wanted: values, or texts that name them by what they print as; see `fields`.

    Raises:
      ValueError: for one that no example has; it lists the values, the nearest first.

    Examples:
      >>> by_field(np.array([7, 8, 7, 9]), [7])  # of the speakers, number 7
      array([0, 2])
      >>> by_field(np.array(["ann", "anna"]), ["anna"])
      array([1])
    """
    field, texts = fields.of(values), [fields.printed(w) for w in wanted]
    for text in texts:
        if not fields.has(field, text):
            raise ValueError(fields.missing(field, text))
    return fields.rows(field, texts)


def explicit(indices: Iterable[int], num_examples: int) -> np.ndarray:
    """The given positions, ascending; one that is given twice counts once.

    Raises:
      ValueError: for positions that are not in the data, and for what is no integer, as a mask.
    """
    given = np.asarray(indices if hasattr(indices, "__array__") else list(indices))
    if given.size and given.dtype.kind in "iu":
        bad = given[(given < 0) | (given >= num_examples)]
    else:
        bad = given
    if bad.size:
        raise ValueError(
            f"forget indices must be integers and lie in [0, {num_examples}), got "
            f"{validation.listed(bad)}"
        )
    return np.unique(given.astype(np.int64))


def complement(forget: np.ndarray, num_examples: int) -> np.ndarray:
    """The retain set of a forget set; raises `ValueError` if either would be empty.

    Examples:
      >>> complement(np.array([1, 3]), 5)
      array([0, 2, 4])
    """
    forget = explicit(forget, num_examples)
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
      spec: one of `SPECS`; '+' separates several values. A VALUE names what prints like it, see
        `fields`.
      train: training data as NumPy arrays with `targets` and, for `field:`, that field.
      held_out: data that no model trains on, in the same form.
      rng: source of the random choices.

    Raises:
      ValueError: if `spec` is not understood, names what the data has not, or selects nothing or
        everything.

    Examples:
      >>> train = {"targets": np.array([0, 1, 1, 2]), "speaker": np.array(["ann", "bo", "bo", "c"])}
      >>> select("class:1", train, train, np.random.default_rng(0)).forget
      array([1, 2])
      >>> select("field:speaker:ann+c", train, train, np.random.default_rng(0)).forget
      array([0, 3])
    """
    kind, _, rest = spec.partition(":")
    try:
        if kind not in _KINDS:
            raise ValueError(f"must be one of {SPECS}{checks.near([kind], _KINDS)}")
        selection = _KINDS[kind](rest, train, held_out, rng)
        complement(selection.forget, len(train["targets"]))
    except ValueError as error:
        raise ValueError(f"forget={spec!r}: {error}") from error
    return selection


def _class(rest: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    classes = rest.split("+")
    forget = whole_class(train["targets"], classes)
    return _with_its_kind(forget, fields.rows(fields.of(held_out["targets"]), classes), held_out)


def _part(rest: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    class_id, fraction = parts(rest, "part:CLASS:FRACTION")
    forget = part_of_class(rng, train["targets"], class_id, number(fraction, "fraction"))
    unseen = fields.rows(fields.of(held_out["targets"]), [class_id])
    return Selection(forget, unseen, _all(held_out))


def _random(rest: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    size = len(train["targets"])
    if rest.isdecimal():
        forget = random_count(rng, size, int(rest))
    else:
        forget = random_fraction(rng, size, number(rest, "fraction"))
    return Selection(forget, _all(held_out), _all(held_out))


def _field(rest: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    name, colon, text = rest.partition(":")  # a value may have a ':' in it
    if not colon:
        raise ValueError("must be like field:NAME:VALUE+VALUE")
    own, other = _scalar(train, held_out, name)
    values = fields.split(own, text)
    return _with_its_kind(fields.rows(own, values), fields.rows(other, values), held_out)


def _identity(rest: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    own, other = _scalar(train, held_out, "identity")
    people = fields.split(own, rest)
    known = fields.shared(other, own)
    if known.all():
        raise ValueError("every identity of the held-out data is in the training data too")
    known_rows = np.setdiff1d(np.flatnonzero(known), fields.rows(other, people))
    return Selection(fields.rows(own, people), np.flatnonzero(~known), known_rows)


def _band(rest: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    low, high = (number(bound, "a bound") for bound in parts(rest, "band:LOW:HIGH"))
    name = "raw_targets" if "raw_targets" in train else "targets"
    if name not in held_out:
        raise ValueError(f"the held-out data has no {name!r}, as the training data has")
    forget, unseen = (in_band(data[name], low, high) for data in (train, held_out))
    return _with_its_kind(forget, unseen, held_out)


def _indices(rest: str, train: dict, held_out: dict, rng: np.random.Generator) -> Selection:
    try:
        chosen = [int(i) for i in rest.split("+")] if rest else []
    except ValueError as error:
        raise ValueError("must be positions in the training data, like indices:0+17") from error
    return Selection(explicit(chosen, len(train["targets"])), _all(held_out), _all(held_out))


_KINDS = {
    "class": _class,
    "part": _part,
    "random": _random,
    "field": _field,
    "identity": _identity,
    "band": _band,
    "indices": _indices,
}


def _all(data: dict) -> np.ndarray:
    return np.arange(len(data["targets"]))


def _with_its_kind(forget: np.ndarray, unseen: np.ndarray, held_out: dict) -> Selection:
    """Where a kind of example goes as a whole, so that the test set is to be of the other kinds."""
    return Selection(forget, unseen, np.setdiff1d(_all(held_out), unseen))


def _scalar(train: dict, held_out: dict, name: str) -> list[fields.Field]:
    """The field of that name of both."""
    for part, data in (("training", train), ("held-out", held_out)):
        known = sorted(key for key, value in data.items() if np.ndim(value) == 1)
        if name not in known:
            near = checks.near([name], known)
            raise ValueError(f"field must be one of {known} of the {part} data, got {name!r}{near}")
    return [fields.of(data[name]) for data in (train, held_out)]


def parts(text: str, form: str) -> list[str]:
    """What stands between the colons of `text`, as many as in `form` after its kind.

    Raises:
      ValueError: if there are more or fewer; it names the form.
    """
    found = text.split(":")
    if len(found) != form.count(":"):
        raise ValueError(f"must be like {form}")
    return found


def number(text: str, name: str) -> float:
    """The number that `text` spells; raises `ValueError` by `name` if it spells none."""
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{name} must be a number, got {text!r}") from error


def _validate_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
