"""The closed form with an intercept: `analytic`'s state of rows that are kept centred.

  W, b = argmin sum_i w_i |y_i - x_i W - b|^2 + gamma |W|^2

is `b = t - m W`, with m and t the weighted means of x and y, and W the solution for rows less their
means. Where a block of weight v joins rows of weight u, or leaves them, the sums of centred rows
change by those of the block around its own mean and by those of one row, the difference of the two
means, of weight `u v / (u + v)`; so that all is learned and forgotten by `analytic`, and features
far from zero cost no digits.

References:
  Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance: Analysis and
  Recommendations", The American Statistician 37(3), 1983.
"""

from typing import NamedTuple

import jax
import numpy as np

from unlearnjax.analytic import precision, recursive


class Centred(NamedTuple):
    """Of rows `[x, y]`, `[D + C]`; NumPy's arrays, which stay float64 when they are pickled.

    Attributes:
      state: of the centred rows, or of the rows as they are.
      mean: `[D + C]`, or `None` if rows are not centred: there is no intercept.
      total: the sum of weights.
      count: the number of rows.
    """

    state: recursive.State
    mean: np.ndarray | None
    total: float
    count: int


def init(width: int, gamma: float, form: str, intercept: bool) -> Centred:
    """Before any row of `width` = D features; columns of targets come with the rows."""
    state = recursive.init(width, 0, gamma, form=form, dtype=np.float64)
    return Centred(_numpy(state), np.zeros(width) if intercept else None, 0.0, 0)


def learn(centred: Centred, rows: np.ndarray, weights: np.ndarray) -> Centred:
    """With `[n, D + C]` rows of `[n]` weights > 0 more; a column that is new was 0 so far.

    Raises:
      ValueError: as `analytic.learn`.
    """
    mean = centred.mean
    if mean is not None:
        mean = np.pad(mean, (0, rows.shape[1] - len(mean)))
    block = _around(centred._replace(mean=mean), rows, weights)
    state = recursive.learn(centred.state, *block)
    total = centred.total + weights.sum()
    if mean is not None:
        mean = mean + weights @ (rows - mean) / total
    return Centred(_numpy(state), mean, total, centred.count + len(rows))


def forget(centred: Centred, rows: np.ndarray, weights: np.ndarray) -> Centred:
    """Without these rows, of which there are at most `count`.

    Raises:
      ValueError: as `analytic.forget`, and if the weight of the rows that are left is rounded away.
    """
    count, total, mean = centred.count - len(rows), 0.0, centred.mean
    if count:
        total = centred.total - weights.sum()
        if not total > precision.rounded_away(centred.total):
            raise ValueError(
                f"weights must leave more than rounding of their sum {centred.total}, got rows "
                f"that leave {total}"
            )
        if mean is not None:
            mean = mean - weights @ (rows - mean) / total
    left = Centred(centred.state, mean, total, count)
    state = recursive.forget(centred.state, *_around(left, rows, weights))
    return left._replace(state=_numpy(state))


def solution(centred: Centred) -> tuple[np.ndarray, np.ndarray]:
    """W `[D, C]` and b `[C]`."""
    weight = centred.state.weight
    if centred.mean is None:
        return weight, np.zeros(weight.shape[1])
    return weight, centred.mean[len(weight) :] - centred.mean[: len(weight)] @ weight


def _around(rest: Centred, rows: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Features, targets and weights by which the state of the rest and of the whole differ."""
    if rest.mean is not None:
        own, mean = weights.sum(), weights @ rows / weights.sum()
        rows = np.vstack([rows - mean, mean - rest.mean])
        weights = np.append(weights, own * rest.total / (own + rest.total))
    return [_padded(x) for x in (*np.split(rows, [len(rest.state.weight)], axis=1), weights)]


def _padded(rows: np.ndarray) -> np.ndarray:
    """Filled with zeros to 64 times a power of two or to whole blocks: every size is a program."""
    size = min(recursive.BLOCK, 64 << ((len(rows) - 1) // 64).bit_length())
    return np.pad(rows, [(0, -len(rows) % size)] + [(0, 0)] * (rows.ndim - 1))


def _numpy(state: recursive.State) -> recursive.State:
    return jax.tree.map(np.asarray, state)
