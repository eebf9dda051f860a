"""What data must be to be learned from, checked once where it enters."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

SHOWN = 5  # bad rows that an error names


def validate(part: Mapping[str, np.ndarray], num_classes: int, name: str = "data") -> None:
    """Raises `ValueError` unless a model can learn from `part`; names the first bad rows.

    `data.standardised` and `data.load` check what they return. Who hands arrays of their own to
    `training.train` calls this: compiled code cannot tell a class that there is not, and clamps it.
    Cost: a pass over the inputs, on the host.

    Args:
      part: `inputs` `[N, ...]`, real and finite in float32; `targets` `[N]`: integers in
        [0, C), or, for regression, finite floats; further fields `[N, ...]`; if there is an
        `index`, distinct integers.
      num_classes: C; 1 with floating targets is regression.
      name: of the part, e.g. 'train'.

    Examples:
      >>> validate({"inputs": np.ones((3, 2)), "targets": np.array([1, 2, 3])}, 3, "train")
      Traceback (most recent call last):
        ...
      ValueError: train targets must be class numbers in [0, 3), got 3 in row 2
    """
    absent = [field for field in ("inputs", "targets") if field not in part]
    if absent:
        raise ValueError(f"{name} must have 'inputs' and 'targets', got {sorted(part)}")
    part = {field: np.asarray(value) for field, value in part.items()}
    lengths = {field: value.shape[:1] for field, value in part.items()}
    size = len(part["targets"]) if part["targets"].ndim else 0
    if not size or set(lengths.values()) != {(size,)}:
        given = ", ".join(f"{field} {value.shape}" for field, value in part.items())
        raise ValueError(f"{name} must have one value per example in each field, got {given}")
    validate_numbers(part["inputs"], f"{name} inputs")
    targets = part["targets"]
    if targets.ndim != 1:
        raise ValueError(f"{name} targets must be [N], got shape {targets.shape}")
    if num_classes == 1 and jnp.issubdtype(targets.dtype, jnp.floating):
        validate_numbers(targets, f"{name} targets")
    elif targets.dtype.kind not in "iu":
        raise ValueError(
            f"{name} targets must be integers, the class numbers in [0, {num_classes}), or floats "
            f"for the regression of one number; got {targets.dtype}"
        )
    else:
        bad = np.flatnonzero((targets < 0) | (targets >= num_classes))
        _refuse(bad, targets, f"{name} targets must be class numbers in [0, {num_classes})")
    if "index" in part:
        _validate_index(part["index"], f"{name} index")


def validate_numbers(values: np.ndarray, name: str) -> None:
    """Raises `ValueError` unless all are real, and finite once they are float32."""
    if not any(jnp.issubdtype(values.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise ValueError(f"{name} must be real numbers, got {values.dtype}")
    # Extremes know NaN, and need no array of the size of the data.
    if values.size and not _finite(np.array([values.min(), values.max()])).all():
        rows = _finite(values).reshape(len(values), -1).all(1)
        bad = np.flatnonzero(~rows)
        raise ValueError(f"{name} must be finite, got others in row {listed(bad)}")


def listed(values: Sequence) -> str:
    """The first of `values`, and how many there are.

    Examples:
      >>> listed([3, 5]), listed(range(100))
      ('3, 5', '0, 1, 2, 3, 4, ... (100 in all)')
    """
    shown = ", ".join(str(value) for value in values[:SHOWN])
    return shown if len(values) <= SHOWN else f"{shown}, ... ({len(values)} in all)"


def _finite(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.isfinite(values.astype(np.float32))


def _validate_index(index: np.ndarray, name: str) -> None:
    if index.ndim != 1 or index.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers [N], got {index.dtype} {index.shape}")
    highest = np.iinfo(np.int32).max
    outside = np.flatnonzero((index < 0) | (index > highest))
    _refuse(outside, index, f"{name} must lie in [0, {highest}]")
    first = np.zeros(len(index), bool)
    first[np.unique(index, return_index=True)[1]] = True
    _refuse(np.flatnonzero(~first), index, f"{name} must be distinct")


def _refuse(bad: np.ndarray, values: np.ndarray, message: str) -> None:
    """Raises `ValueError` if there are bad rows."""
    if bad.size:
        raise ValueError(f"{message}, got {listed(values[bad])} in row {listed(bad)}")
