import itertools
import math

import numpy as np
import pytest

from unlearnjax.unlearning import sequences


@pytest.mark.parametrize(("num_slices", "budget"), [(1, 1), (4, 3), (4, 4), (5, 12), (3, 6)])
def test_diverse_orders_are_different_permutations_spread_evenly(num_slices, budget):
    orders = sequences.diverse(num_slices, budget)
    assert orders.shape == (budget, num_slices)
    assert len({tuple(order) for order in orders}) == budget
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(range(num_slices), (budget, 1)))
    firsts = np.bincount(orders[:, 0], minlength=num_slices)
    assert firsts.max() - firsts.min() <= 1


def test_orders_are_cyclic_shifts_first_then_those_of_larger_steps():
    assert sequences.diverse(4, 2).tolist() == [[0, 1, 2, 3], [1, 2, 3, 0]]
    # Step 2 has a factor in common with 4; step 3 is the next.
    assert sequences.diverse(4, 6)[4:].tolist() == [[0, 3, 2, 1], [3, 2, 1, 0]]


def test_what_is_never_deleted_comes_first():
    assert sequences.by_probability([1.0, 0.0, 0.5], 1).tolist() == [[1, 2, 0]]


def test_a_slice_is_reused_only_as_often_as_the_budget_makes_it():
    """However likely its deletion: once each where that will do, else `ceil(budget / L)` times."""
    assert sorted(sequences.by_probability([10.0, 0.0], 2)[:, 0]) == [0, 1]
    assert sorted(sequences.by_probability([0.0, 0.0, 10.0], 4)[:, 0]) == [0, 0, 1, 1]


def cost(orders, probability):
    """Expected blocks lost to one deletion, over copies."""
    turns = np.argsort(orders, axis=1)
    return ((orders.shape[1] - turns) * probability).sum(1).mean()


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7])
def test_likely_deletions_come_late(budget):
    probability = np.array([0.5, 0.1, 0.3, 0.1])
    orders = sequences.by_probability(probability, budget)
    np.testing.assert_array_equal(np.sort(orders, axis=1), np.tile(range(4), (budget, 1)))
    assert len(set(orders[:, 0])) == min(budget, 4)
    assert cost(orders, probability) <= cost(sequences.diverse(4, budget), probability) + 1e-12


def test_one_order_is_the_best_of_all():
    probability = np.array([0.4, 0.1, 0.2, 0.3])
    best = min(cost(np.array([o]), probability) for o in itertools.permutations(range(4)))
    assert cost(sequences.by_probability(probability, 1), probability) == pytest.approx(best)


@pytest.mark.parametrize("budget", [1, 2, 4])
def test_deletions_until_retraining_follow_the_coupon_collector(budget):
    """Brute-force simulation of uniform deletions: a shard is lost with its last first slice."""
    num_slices, rng = 4, np.random.default_rng(0)
    turns = np.argsort(sequences.diverse(num_slices, budget), axis=1)
    counts = []
    for _ in range(4000):
        alive, count = np.full(budget, num_slices), 0
        while alive.max() > 0:
            alive = np.minimum(alive, turns[:, rng.integers(num_slices)])
            count += 1
        counts.append(count)
    expected = num_slices * sum(1 / k for k in range(1, budget + 1))
    standard_error = np.std(counts) / math.sqrt(len(counts))
    assert abs(np.mean(counts) - expected) < 4 * standard_error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequences.diverse(3, 7), "budget must be at most the 6 orders of 3 slices, got 7"),
        (lambda: sequences.diverse(3, 0), "budget must be >= 1"),
        (lambda: sequences.by_probability([0.5, -0.1], 1), "deletion_probability must be"),
        (lambda: sequences.by_probability([0.5, np.inf], 1), "deletion_probability must be"),
        (lambda: sequences.by_probability([], 1), "deletion_probability must be"),
        (lambda: sequences.by_probability([[0.5]], 1), "deletion_probability must be"),
    ],
)
def test_bad_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
