import itertools
import math
import warnings

import ml_dtypes
import numpy as np
import pytest
import scipy.stats

from unlearnjax import audit

pytestmark = pytest.mark.filterwarnings("ignore:forgetting quality needs hundreds")


def slow_epsilon(unlearned, oracle, delta):
    """The challenge's attacks, rule by rule, by thresholds on a grid of 1/16: sums are exact."""
    grid = lambda low, high: np.arange(low, high + 1 / 32, 1 / 16)
    high, low = unlearned, oracle
    if np.median(low) > np.median(high):
        high, low = low, high
    narrow, wide = (high, low) if np.ptp(high) < np.ptp(low) else (low, high)
    width, top = np.ptp(narrow), narrow.max()
    if width < 0.01 * np.ptp(wide):
        return math.inf
    everything = np.concatenate([unlearned, oracle])
    rules = [(high, low, t, np.inf) for t in grid(everything.min(), everything.max())]
    for right in grid(top - 2, top + 2):
        for left in grid(right - width - 2, right - width + 2):
            rules.append((narrow, wide, left, right))
    best = 0.0
    for called, others, left, right in rules:
        fnr = np.mean((called < left) | (called > right))
        fpr = np.mean((others >= left) & (others <= right))
        if fnr == fpr == 0:
            return math.inf
        for rate, other in ((fnr, fpr), (fpr, fnr)):
            if rate > 0 and 1 - delta - other > 0:
                best = max(best, math.log((1 - delta - other) / rate))
    return best


@pytest.mark.parametrize(("delta", "apart"), [(0.0, 0.75), (0.2, 1.0)])
def test_epsilons_are_those_of_the_best_rule(delta, apart):
    """Outputs in clusters, which the ends of intervals reach, just reach, or miss."""
    rng, found, slow = np.random.default_rng(1), [], []
    for spread in (1, 2, 4, 4, 4, 8, 8, 8):
        centres = spread * rng.normal(size=(2, 3))
        sides = [
            rng.choice(c, n) + rng.normal(size=n) for c, n in zip(centres, (12, 15), strict=True)
        ]
        sides = [apart * np.round(x / apart) for x in sides]
        found.append(audit.example_epsilons(*(x[:, None] for x in sides), delta=delta)[0])
        slow.append(slow_epsilon(*sides, delta))
    np.testing.assert_allclose(found, slow, rtol=1e-9)
    assert len(set(found)) > 5


def test_of_equally_wide_populations_the_lower_is_the_one_inside():
    high, low = np.array([0.0, 2, 2, 11, 11, 12]), np.array([0.0, 1, 1, 1, 10, 12])
    epsilon = lambda a, b: audit.example_epsilons(a[:, None], b[:, None], delta=0)[0]
    assert epsilon(high, low) == epsilon(low, high) == pytest.approx(slow_epsilon(high, low, 0))
    assert epsilon(high, low) == pytest.approx(np.log(4))
    low[-1] += 1 / 16  # the higher is the narrower one
    assert epsilon(high, low) == pytest.approx(slow_epsilon(high, low, 0))
    assert epsilon(high, low) == pytest.approx(np.log(5))


FAR = [-40.0] * 6 + [40.0] * 7


@pytest.mark.parametrize(
    ("narrow", "wide", "odds"),
    [
        # Without the 0 and up to 12: one in five is missed, one in twenty is called falsely.
        ([0, 6, 8, 9, 10], [3] * 6 + [12], 0.8 / (1 / 20)),
        ([0, 6, 8, 9, 10], [3] * 6 + [12.5], 1 / 0.2),  # 12.5 is out of reach
        # Without the 10, from -4: an interval that ends at 8 may be 12 wide, no wider.
        ([0, 1, 2, 4, 10], [9] * 6 + [-4], 0.8 / (1 / 20)),
        ([0, 1, 2, 4, 10], [9] * 6 + [-4.5], 1 / 0.2),
        # One that ends at 12 is at least 8 wide: whatever has the 10 has the fours.
        ([0, 5, 6, 8, 10], [4] * 6 + [20], 0.7 / 0.2),
        ([0, 5, 6, 8, 10], [3.5] * 6 + [20], 1 / 0.2),
    ],
)
def test_ends_of_intervals_reach_as_far_as_the_challenges(narrow, wide, odds):
    sides = np.array(narrow, float), np.array(wide + FAR)
    for a, b in (sides, sides[::-1]):
        epsilon = audit.example_epsilons(a[:, None], b[:, None], delta=0)
        assert epsilon == pytest.approx(np.log(odds))
        assert epsilon == pytest.approx(slow_epsilon(a, b, 0))


def test_of_equal_medians_the_unlearned_are_the_higher():
    unlearned = np.array([-100.0, -1, 0, 0, 5, 5, 100])
    oracle = np.array([-100.5, -5, -5, 0, 0, 1, 101])
    epsilon = lambda a, b: audit.example_epsilons(a[:, None], b[:, None], delta=0)[0]
    for sides in ((unlearned, oracle), (oracle, unlearned)):
        assert epsilon(*sides) == pytest.approx(slow_epsilon(*sides, 0))
    assert epsilon(unlearned, oracle) == pytest.approx(np.log(3))  # one of seven against three
    assert epsilon(oracle, unlearned) < 1


def test_epsilon_of_coin_flips_is_the_log_odds_ratio():
    """Outputs 0 or 1, P(1) = 3/4 against 1/4: the best rule has FPR = FNR = 1/4: log 3."""
    unlearned = np.repeat([0.0, 1.0], [100, 300])[:, None]
    oracle = np.repeat([0.0, 1.0], [300, 100])[:, None]
    assert audit.example_epsilons(unlearned, oracle, delta=0) == pytest.approx(np.log(3))
    assert audit.example_epsilons(oracle, unlearned, delta=0) == pytest.approx(np.log(3))
    for delta in (0.05, 0.3):
        expected = np.log((1 - delta - 0.25) / 0.25)
        assert audit.example_epsilons(unlearned, oracle, delta=delta) == pytest.approx(expected)
    usual = np.log((1 - 1e-5 - 0.25) / 0.25)  # of the challenge
    assert audit.example_epsilons(unlearned, oracle) == pytest.approx(usual, rel=1e-12)
    assert audit.example_epsilons(unlearned, oracle, delta=1.0) == 0


def test_intervals_catch_what_single_thresholds_miss(rng):
    """Same median, different spread: only a double threshold tells them apart."""
    narrow = rng.uniform(-0.5, 0.5, size=(500, 1))
    wide = rng.uniform(-2, 2, size=(500, 1))
    inside = scipy.stats.uniform(-2, 4).cdf(0.5) - scipy.stats.uniform(-2, 4).cdf(-0.5)
    for sides in ((narrow, wide), (wide, narrow)):
        # 'Narrower inside (-1/2, 1/2)': FNR 0 there; the other ratio certifies log(1 / FPR).
        assert audit.example_epsilons(*sides)[0] > np.log(1 / inside) - 0.3


def test_intervals_are_about_as_wide_as_the_narrower_population():
    """Any interval would find twenty against one; the best of all intervals fits noise as well."""
    unlearned = np.concatenate([np.linspace(-50, 50, 80), np.linspace(-0.2, 0.2, 20)])
    oracle = np.linspace(-50.4, 50.4, 101)
    assert np.sum(np.abs(oracle) < 0.3) == 1
    epsilon = audit.example_epsilons(unlearned[:, None], oracle[:, None], delta=0)[0]
    assert epsilon == pytest.approx(slow_epsilon(unlearned, oracle, 0), abs=0.01)
    assert epsilon < np.log(20) - 1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_neighbours_of_any_type_are_told_apart(rng, dtype):
    """No number of the type lies between: a midpoint would be one of the two."""
    low = dtype(1)
    high = np.nextafter(low, dtype(2)) if dtype != ml_dtypes.bfloat16 else dtype(1.0078125)
    one = np.concatenate([np.full(60, low), np.full(40, high)])[:, None]
    other = np.concatenate([np.full(20, low), np.full(80, high)])[:, None]
    assert audit.example_epsilons(one, other, delta=0) == pytest.approx(np.log(0.6 / 0.2))
    values = rng.normal(size=(2, 40, 30)).astype(dtype)
    expected = audit.example_epsilons(*values.astype(np.float64))
    np.testing.assert_array_equal(audit.example_epsilons(*values), expected)
    apart = np.linspace(0, 1, 50).astype(dtype)[:, None]
    top = np.linspace(1.02, 2, 50).astype(dtype)[:, None]
    assert np.isinf(audit.example_epsilons(apart, top)).all()


def test_a_collapsed_population_is_separated_and_equal_ones_are_not(rng):
    wide, point = rng.normal(size=(50, 2)), np.zeros((60, 2))
    assert np.isinf(audit.example_epsilons(point, wide)).all()
    assert np.isinf(audit.example_epsilons(wide, point)).all()
    assert (audit.example_epsilons(point, point[:50]) == 0).all()
    nearly = point + np.linspace(0, 0.02 * np.ptp(wide[:, 0]), 60)[:, None]
    assert np.isfinite(audit.example_epsilons(nearly, wide)[0])


def test_bins_halve_the_score():
    assert audit.forgetting_quality(np.array([0.0, 0.49])) == 1
    assert audit.forgetting_quality(np.array([0.5, 0.99])) == 0.5
    assert audit.forgetting_quality(np.array([0.2, 1.2])) == pytest.approx((1 + 0.25) / 2)
    assert audit.forgetting_quality(np.array([5.99])) == 2 / 2**12
    for beyond in (6.0, 9.0, np.inf):
        assert audit.forgetting_quality(np.array([beyond])) == 2 / 2**13
    assert audit.forgetting_quality(np.array([0.2, 0.7], np.float16)) == 0.75
    for bad in (np.zeros(0), np.array([0.0, np.nan])):
        with pytest.raises(ValueError, match="epsilons must be at least one, none NaN"):
            audit.forgetting_quality(bad)


def test_the_score_is_relative_to_the_oracles_accuracies():
    assert audit.challenge_score(0.5, 0.9, 0.8, 1.0, 0.8) == pytest.approx(0.45)
    assert audit.challenge_score(0.5, 0.9, 0.4, 0.9, 0.8) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="oracle_test_accuracy must be > 0, got 0"):
        audit.challenge_score(0.5, 0.9, 0.8, 1.0, 0.0)


def test_a_perfect_unlearner_has_the_null_value_not_1(rng):
    """More oracles in the place of the unlearned models: within the interval of the null."""
    oracles = rng.normal(size=(200, 1)) + rng.normal(1, 1.5, size=(200, 60))
    quality = audit.forgetting_quality(audit.example_epsilons(oracles[:100], oracles[100:]))
    null = audit.forgetting_quality_null(oracles[:100], oracles[100:])
    assert null.shape == (20,)
    assert abs(quality - null.mean()) < 4 * null.std()
    assert 0.1 < null.mean() < 0.3
    kept = oracles[:100] + 3.0
    assert audit.forgetting_quality(audit.example_epsilons(kept, oracles[100:])) < null.min()


def test_the_null_deals_models_into_groups_of_their_numbers(rng):
    """Three against two: all ways to deal five models out, by brute force."""
    models = rng.normal(size=(5, 15))
    dealt = []
    for one in itertools.combinations(range(5), 3):
        other = [i for i in range(5) if i not in one]
        epsilons = audit.example_epsilons(models[list(one)], models[other], delta=0.1)
        dealt.append(audit.forgetting_quality(epsilons))
    null = audit.forgetting_quality_null(
        models[:3], models[3:], delta=0.1, seed=1, num_permutations=60
    )
    assert len(set(dealt)) > 5 and set(np.round(null, 9)) == set(np.round(dealt, 9))
    assert null.mean() == pytest.approx(np.mean(dealt), rel=0.2)
    other = audit.forgetting_quality_null(models[:3], models[3:], delta=0.1, num_permutations=60)
    assert (null != other).any()


def test_few_models_warn_and_what_is_no_population_is_refused(rng):
    few, many = rng.normal(size=(99, 2)), rng.normal(size=(100, 2))
    for audited in (audit.example_epsilons, audit.forgetting_quality_null):
        with pytest.warns(UserWarning, match="hundreds of models on each side, got 99 and 100"):
            audited(few, many)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            audited(many, many + 0.1)
        with pytest.raises(ValueError, match="same examples"):
            audited(np.zeros((5, 2)), np.zeros((5, 3)))
        with pytest.raises(ValueError, match="^oracle must be finite"):
            audited(many, np.full((100, 2), np.inf))
        for delta in (-0.1, 1.1, np.nan):
            with pytest.raises(ValueError, match="delta must lie in"):
                audited(many, many, delta=delta)
    with pytest.raises(ValueError, match="num_permutations must be >= 1"):
        audit.forgetting_quality_null(many, many, num_permutations=0)
