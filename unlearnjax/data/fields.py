"""Which examples a text names by the value of a scalar field, such as a person or a source.

A text names the value that prints like it. It is never cast to the type of the field: `anna` would
be cut to `ann`, and `False` be true.
"""

import decimal
import difflib
import heapq
import os
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np

SHOWN = 10  # values that an error lists
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Field(NamedTuple):
    """A scalar field by its distinct values.

    Attributes:
      known: `{value: code}` in ascending order; a bool, int or float (NaN: 'nan'), and for every
        other type, such as text, bytes, dates or objects, what the value prints as.
      codes: `[N]`, which of them each example has.
      dtype: as stored.
    """

    known: dict[Hashable, int]
    codes: np.ndarray
    dtype: np.dtype


def of(values: np.ndarray) -> Field:
    """The field of `[N]` values of any type.

    Raises:
      ValueError: unless there is one value per example.
    """
    values = np.asarray(values)
    if values.ndim != 1:
        raise ValueError(f"a field must have one value per example, got shape {values.shape}")
    if not _are_numbers(values.dtype):
        values = np.array([printed(v) for v in values], object)
    known, codes = np.unique(values, return_inverse=True)
    named = {value if value == value else "nan": code for code, value in enumerate(known.tolist())}
    return Field(named, codes, np.asarray(values).dtype)


def printed(value: Any) -> str:
    """The text that names a value."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def has(field: Field, text: str) -> bool:
    """Whether a value of the field is named by `text`.

    Examples:
      >>> numbers = of(np.array([0.1, 7], np.float32))
      >>> has(numbers, "0.1"), has(numbers, "7.0"), has(numbers, "0.10000002")
      (True, True, False)
    """
    return _named(field, text) in field.known


def rows(field: Field, texts: Iterable[str]) -> np.ndarray:
    """Positions of the examples whose value one of `texts` names, ascending."""
    codes = [field.known[_named(field, text)] for text in texts if has(field, text)]
    return np.flatnonzero(np.isin(field.codes, codes))


def split(field: Field, text: str) -> list[str]:
    """The values that `text` joins by '+', where a value may itself contain a '+'.

    Raises:
      ValueError: if a value is not in the field, or there are several ways to read it.

    Examples:
      >>> split(of(np.array(["ann", "bob", "c++"])), "ann+c++")
      ['ann', 'c++']
    """
    pieces = text.split("+")
    # A float may be printed as 1e+20.
    longest = 1 + max([1, *(str(value).count("+") for value in field.known)])
    readings = [[()]]  # of the first so many pieces; two of each tell that it is not clear
    for end in range(1, len(pieces) + 1):
        values = {begin: "+".join(pieces[begin:end]) for begin in range(max(0, end - longest), end)}
        found = [
            (*reading, value)
            for begin, value in values.items()
            if has(field, value)
            for reading in readings[begin]
        ]
        readings.append(found[:2])
    if not readings[-1]:
        understood = max(end for end, found in enumerate(readings) if found)
        raise ValueError(missing(field, pieces[understood]))
    if len(readings[-1]) > 1:
        first, second = (list(reading) for reading in readings[-1])
        raise ValueError(f"{text!r} may mean {first} or {second}")
    return list(readings[-1][0])


def shared(field: Field, other: Field) -> np.ndarray:
    """`[N]`, whether the value of each example of `field` occurs in `other`, too.

    Raises:
      ValueError: if one has numbers and the other text.
    """
    if _are_numbers(field.dtype) != _are_numbers(other.dtype):
        raise ValueError(f"a field must be numbers or text, got {other.dtype} and {field.dtype}")
    return np.array([value in other.known for value in field.known], bool)[field.codes]


def missing(field: Field, text: str) -> str:
    """An error: no value is named by `text`; the nearest values first."""
    near = _nearest(field, text)
    more = f", ... ({len(field.known)} in all)" if len(near) < len(field.known) else ""
    return f"field value must be one of [{', '.join(near)}{more}], got {text!r}"


def _are_numbers(dtype: np.dtype) -> bool:
    return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)


def _named(field: Field, text: str) -> Hashable:
    """The value that `text` names; `None` if no value of the field's type prints like it."""
    if not _are_numbers(field.dtype):
        return text
    if field.dtype.kind == "b":
        return _BOOLEANS.get(text.lower())
    try:
        exact = decimal.Decimal(text)
    except decimal.InvalidOperation:
        return None
    if exact.is_nan():
        return "nan"
    if field.dtype.kind == "f":
        with np.errstate(over="ignore"):
            value = field.dtype.type(float(exact))
        # As the type prints it, as Python does, and to the last digit.
        prints = (str(value), repr(value.item()), value.item())
        return value.item() if exact in map(decimal.Decimal, prints) else None
    within = -(2**63) <= exact < 2**64 and exact == exact.to_integral_value()
    return int(exact) if within else None


def _nearest(field: Field, text: str) -> list[str]:
    """At most `SHOWN` of the values, as they print, the nearest to `text` first."""
    if _are_numbers(field.dtype):
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        values = np.array([float(value) for value in field.known])
        with np.errstate(invalid="ignore"):
            order = np.argsort(np.abs(values - number), kind="stable")[:SHOWN]
        known = list(field.known)
        return [str(field.dtype.type(known[i])) for i in order]
    # Likeness is slow to compute: of those that begin alike.
    begins = lambda value: -len(os.path.commonprefix([value.lower(), text.lower()]))
    alike = lambda value: -difflib.SequenceMatcher(None, value.lower(), text.lower()).ratio()
    candidates = heapq.nsmallest(1000, field.known, key=begins)
    return [repr(value) for value in sorted(candidates, key=alike)[:SHOWN]]
