"""Orders in which copies of a model go through their slices, for S3T: host-side, NumPy.

The earlier a slice comes in an order, the more a deletion from it costs that copy; so the copies
should differ, first of all in their first slice. Basu Roy Chowdhury et al., 2024 (arXiv
2406.16257), section 3.3.
"""

import math
from collections.abc import Sequence

import numpy as np

from unlearnjax import checks


def diverse(num_slices: int, budget: int) -> np.ndarray:
    """`[budget, num_slices]` different orders for equally likely deletions.

    Cyclic shifts of one order: any L of them in a row put every slice once at every position, so
    first slices (and positions) are spread as evenly as can be. After L shifts the base order
    changes: the slices in steps of 2, 3, ... as far as these are new, then whatever is left.

    Raises:
      ValueError: if there are fewer than `budget` orders.
    """
    checks.at_least(1, num_slices=num_slices)
    _validate_budget(num_slices, budget)
    orders: dict[tuple[int, ...], None] = {}
    bases = _bases(num_slices)
    while len(orders) < budget:
        base = next(bases)
        for shift in range(num_slices):
            orders.setdefault(tuple(np.roll(base, -shift).tolist()))
    return np.array(list(orders)[:budget])


def by_probability(probability: Sequence[float], budget: int) -> np.ndarray:
    """`[budget, L]` orders that put likely deletions late, by a matching per position.

    Position after position, every order is given a slice that it does not have yet, at the lowest
    total probability of deletion, each slice to at most `ceil(budget / L)` orders where that is
    possible (so that the orders stay diverse; up to L of them differ in their first slice).

    Args:
      probability: `[L]` of a deletion from each slice, >= 0.
      budget: how many orders.

    Raises:
      ValueError: for a negative, infinite or missing probability, or fewer than `budget` orders.
    """
    from scipy.optimize import linear_sum_assignment

    cost = np.asarray(probability, float)
    if cost.ndim != 1 or not len(cost) or not (np.isfinite(cost) & (cost >= 0)).all():
        raise ValueError(f"deletion_probability must be [L] finite numbers >= 0, got {probability}")
    num_slices = len(cost)
    _validate_budget(num_slices, budget)
    copies = math.ceil(budget / num_slices)
    orders = np.empty((budget, 0), int)
    for _ in range(num_slices):
        used = np.zeros((budget, num_slices), bool)
        np.put_along_axis(used, orders, True, axis=1)
        # Column `k L + s` is the k-th use of slice s. Uses beyond `copies` are dear; slices that an
        # order has already are out of reach.
        use = np.repeat(np.arange(budget), num_slices)
        dear = np.maximum(use - copies + 1, 0) * (1 + budget * cost.max())
        prices = np.where(np.tile(used, budget), np.inf, np.tile(cost, budget) + dear)
        _, columns = linear_sum_assignment(prices)
        orders = np.c_[orders, columns % num_slices]
    return orders


def _bases(num_slices: int):
    slices = np.arange(num_slices)
    for step in range(1, num_slices):
        if math.gcd(step, num_slices) == 1:
            yield slices * step % num_slices
    rng = np.random.default_rng(0)
    while True:
        yield rng.permutation(num_slices)


def _validate_budget(num_slices: int, budget: int) -> None:
    checks.at_least(1, budget=budget)
    if budget > math.factorial(num_slices):
        raise ValueError(
            f"budget must be at most the {math.factorial(num_slices)} orders of {num_slices} "
            f"slices, got {budget}"
        )
