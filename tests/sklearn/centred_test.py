"""The state with an intercept against NumPy's solution of the centred rows."""

import numpy as np
import pytest

from unlearnjax.sklearn import centred

GAMMA = 0.7


def rows(rng, n=20):
    """Three features and two targets, and weights."""
    return rng.normal(size=(n, 5)) + [5, -3, 40, 2, -1], rng.uniform(0.1, 3, n)


def solved(rows, weights, intercept=True):
    """By the normal equations of the rows less their means."""
    mean = np.average(rows, axis=0, weights=weights) * intercept
    x, y = np.split((rows - mean) * np.sqrt(weights)[:, None], [3], axis=1)
    weight = np.linalg.solve(x.T @ x + GAMMA * np.eye(3), x.T @ y)
    return weight, mean[3:] - mean[:3] @ weight


def assert_solves(state, rows, weights, intercept=True):
    for ours, expected in zip(
        centred.solution(state), solved(rows, weights, intercept), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", ["gram", "inverse"])
@pytest.mark.parametrize("intercept", [True, False])
def test_blocks_that_come_and_go_leave_the_solution_of_the_rest(rng, form, intercept):
    data, weights = rows(rng)
    state = centred.init(3, GAMMA, form, intercept)
    for block in (slice(0, 1), slice(1, 13), slice(13, 20)):
        state = centred.learn(state, data[block], weights[block])
        assert_solves(state, data[: block.stop], weights[: block.stop], intercept)
    for block in (slice(19, 20), slice(8, 19)):
        state = centred.forget(state, data[block], weights[block])
        assert_solves(state, data[: block.start], weights[: block.start], intercept)
    assert state.count == 8 and np.isclose(state.total, weights[:8].sum())
    if intercept:
        expected = np.average(data[:8], axis=0, weights=weights[:8])
        np.testing.assert_allclose(state.mean, expected, rtol=1e-12)


def test_a_column_that_comes_late_was_zero_before(rng):
    data, weights = rows(rng)
    data[:9, 4] = 0
    state = centred.learn(centred.init(3, GAMMA, "gram", True), data[:9, :4], weights[:9])
    assert_solves(centred.learn(state, data[9:], weights[9:]), data, weights)


def test_without_rows_nothing_is_left(rng):
    data, weights = rows(rng)
    state = centred.learn(centred.init(3, GAMMA, "gram", True), data, weights)
    state = centred.forget(state, data, weights)
    assert state.count == state.total == 0
    np.testing.assert_allclose(state.state.gram, GAMMA * np.eye(3), atol=1e-11)
    np.testing.assert_allclose(state.state.moment, 0, atol=1e-11)


def test_a_weight_that_is_rounded_away_is_refused(rng):
    data, weights = rows(rng)
    weights[0] = 1e-12
    state = centred.learn(centred.init(3, GAMMA, "gram", False), data, weights)
    with pytest.raises(ValueError, match="weights must leave more than rounding of their sum"):
        centred.forget(state, data[1:], weights[1:])
    with pytest.raises(ValueError, match="weights must leave more .* that leave -"):
        centred.forget(state, data[1:2], np.array([1e3]))


def test_blocks_of_nearly_one_size_share_a_program():
    sizes = {n: len(centred._padded(np.ones((n, 2)))) for n in range(1, 1026)}
    assert set(sizes.values()) == {64, 128, 256, 512, 1024, 1536}
    assert [sizes[n] for n in (64, 65, 128, 129, 512, 513)] == [64, 128, 128, 256, 512, 1024]
    np.testing.assert_array_equal(centred._padded(np.ones(3)), [1] * 3 + [0] * 61)
