"""Checks of arguments that many constructors make, with one wording.

Numbers may be traced, so that a hyper-parameter can be an argument of a compiled program or be
mapped over; what is traced is not checked.
"""

import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def one_of(**choices: tuple[Any, Sequence[Any]]) -> None:
    """Raises `ValueError` unless each `name=(given, allowed)` is among the allowed."""
    for name, (given, allowed) in choices.items():
        if given not in allowed:
            raise ValueError(
                f"{name} must be one of {allowed}, got {given!r}{near([given], allowed)}"
            )


def among(**choices: tuple[Sequence[Any], Sequence[Any]]) -> None:
    """Raises `ValueError` unless all that is given in each `name=(given, allowed)` is allowed."""
    for name, (given, allowed) in choices.items():
        unknown = [x for x in given if x not in allowed]
        if unknown:
            raise ValueError(
                f"{name} must be among {allowed}, got {unknown}{near(unknown, allowed)}"
            )


def near(given: Iterable[Any], allowed: Iterable[Any], cutoff: float = 0.6) -> str:
    """What the first of `given` may have been meant to be, as the end of an error; '' if nothing.

    Names are near that are alike by at least `cutoff`, see `difflib`.

    Examples:
      >>> near(["sdd"], ["ssd", "scrub"])
      "; did you mean 'ssd'?"
    """
    names = [str(name) for name in allowed]
    close = [y for x in given for y in difflib.get_close_matches(str(x), names, 1, cutoff)]
    return f"; did you mean {close[0]!r}?" if close else ""


def at_least(minimum: float, **values: float) -> None:
    """Raises `ValueError` unless each value is at least `minimum`; NaN is not."""
    _require(lambda value: value >= minimum, f"be >= {minimum}", values)


def positive(**values: float) -> None:
    """Raises `ValueError` unless each value is above 0; NaN is not."""
    _require(lambda value: value > 0, "be > 0", values)


def finite(**values: float) -> None:
    """Raises `ValueError` for NaN and infinity."""
    _require(math.isfinite, "be finite", values)


def within(low: float, high: float, **values: float) -> None:
    """Raises `ValueError` unless each value lies in `[low, high]`."""
    _require(lambda value: low <= value <= high, f"lie in [{low}, {high}]", values)


def share(**values: float) -> None:
    """Raises `ValueError` unless each value lies in [0, 1]."""
    within(0, 1, **values)


def part(**values: float) -> None:
    """Raises `ValueError` unless each value lies in (0, 1]: a share, and not of nothing."""
    _require(lambda value: 0 < value <= 1, "lie in (0, 1]", values)


def open_share(**values: float) -> None:
    """Raises `ValueError` unless each value lies between 0 and 1, both excluded."""
    _require(lambda value: 0 < value < 1, "lie in (0, 1)", values)


def floating(**arrays: Any) -> None:
    """Raises `ValueError` unless each array is floating-point, as what is to be moved must be."""
    for name, array in arrays.items():
        if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            raise ValueError(
                f"{name} must be floating-point to be moved, got {jnp.result_type(array)}"
            )


def whole(**values: int) -> None:
    """Raises `ValueError` unless each value is a whole number; no float is, nor `True`."""
    for name, value in values.items():
        array = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.integer)
        integral = traced(value) or array or isinstance(value, numbers.Integral)
        if isinstance(value, bool) or not integral:
            raise ValueError(f"{name} must be a whole number, got {value!r}")


def traced(value: Any) -> bool:
    """Whether the value is not known yet, inside of compiled code."""
    return isinstance(value, jax.core.Tracer)


def not_text(**values: Any) -> None:
    """Raises `ValueError` for a string, or no sequence, where there are to be several names."""
    for name, value in values.items():
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise ValueError(f"{name} must be several names, such as ('a',), got {value!r}")


def name(**values: Any) -> None:
    """Raises `ValueError` for what is no text, or empty, where there is to be one name."""
    for field, value in values.items():
        if not isinstance(value, str) or not value:
            raise ValueError(f"{field} must be one name, such as 'a', got {value!r}")


def _require(holds: Callable[[float], bool], what: str, values: Mapping[str, float]) -> None:
    """Raises `ValueError` for each value that is known, and no number or not as it must be."""
    for name, value in values.items():
        if traced(value):
            continue
        number = isinstance(value, numbers.Real) or hasattr(value, "dtype")
        if isinstance(value, str) or not number:
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not holds(value):
            raise ValueError(f"{name} must {what}, got {value}")
