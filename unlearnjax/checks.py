"""Checks of arguments that many constructors make, with one wording."""

from collections.abc import Sequence
from typing import Any


def one_of(**choices: tuple[Any, Sequence[Any]]) -> None:
    """Raises `ValueError` unless each `name=(given, allowed)` is among the allowed."""
    for name, (given, allowed) in choices.items():
        if given not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, got {given!r}")


def at_least(minimum: float, **values: float) -> None:
    """Raises `ValueError` unless each value is at least `minimum`; NaN is not."""
    for name, value in values.items():
        if not value >= minimum:
            raise ValueError(f"{name} must be >= {minimum}, got {value}")


def positive(**values: float) -> None:
    """Raises `ValueError` unless each value is above 0; NaN is not."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")
