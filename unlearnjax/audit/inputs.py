"""What audits accept: arrays of finite numbers, wide enough to be added up.

bfloat16 and float16 must not reach a formula: 300 ones have a bfloat16 mean of 0.85, squares beyond
65,504 are infinite in float16, and the midpoint of two neighbours is one of them in any type.
"""

import numpy as np


def finite(**arrays: np.ndarray) -> list[np.ndarray]:
    """The arrays on the host, in float32 or the wider type that they have.

    Raises:
      ValueError: if one has a value that is not finite.
    """
    result = []
    for name, given in arrays.items():
        given = np.asarray(given)
        array = given.astype(np.result_type(given, np.float32))
        bad = int((~np.isfinite(array)).sum())
        if bad:
            raise ValueError(f"{name} must be finite, got {bad} of {array.size} NaN or infinite")
        result.append(array)
    return result


def populations(minimum: int = 1, **arrays: np.ndarray) -> list[np.ndarray]:
    """Outputs `[models, examples]` of several populations on the same examples, in float64.

    Raises:
      ValueError: for another shape, fewer models than `minimum` or a value that is not finite.
    """
    found = [np.asarray(x, np.float64) for x in finite(**arrays)]
    shapes = {name: x.shape for name, x in zip(arrays, found, strict=True)}
    examples = {shape[1:] for shape in shapes.values()}
    if len(examples) > 1 or any(len(s) != 2 or s[1] < 1 for s in shapes.values()):
        raise ValueError(
            f"{_and(arrays)} must be [models, examples] of the same examples, got {_listed(shapes)}"
        )
    few = {name: shape[0] for name, shape in shapes.items() if shape[0] < minimum}
    if few:
        raise ValueError(f"at least {minimum} models of each kind are needed, got {_listed(few)}")
    return found


def scores(minimum: int = 1, **arrays: np.ndarray) -> list[np.ndarray]:
    """One number per example, `[N]`, of several sets of examples, in float64.

    Raises:
      ValueError: for another shape, fewer examples than `minimum` or a value that is not finite.
    """
    found = [np.asarray(x, np.float64) for x in finite(**arrays)]
    for name, array in zip(arrays, found, strict=True):
        if array.ndim != 1 or len(array) < minimum:
            raise ValueError(
                f"{name} must be [N] with at least {minimum} examples, got {array.shape}"
            )
    return found


def probabilities(**arrays: np.ndarray) -> list[np.ndarray]:
    """Predicted probabilities `[N, C]` of several models for the same examples.

    Raises:
      ValueError: for another shape or a value that is negative or not finite.
    """
    found = finite(**arrays)
    shapes = {name: x.shape for name, x in zip(arrays, found, strict=True)}
    if len(set(shapes.values())) > 1 or any(len(s) != 2 or 0 in s for s in shapes.values()):
        raise ValueError(
            f"{_and(arrays)} must be [N, C] of the same examples, got {_listed(shapes)}"
        )
    for name, array in zip(arrays, found, strict=True):
        if array.min() < 0:
            raise ValueError(f"{name} must be probabilities, >= 0, got {array.min()}")
    return found


def _and(names) -> str:
    return " and ".join(names)


def _listed(values) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
