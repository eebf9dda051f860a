import numpy as np
import pytest
import scipy.stats

from unlearnjax import audit


def test_models_from_one_distribution_score_near_the_top_and_separated_ones_near_zero(rng):
    null = audit.example_epsilons(rng.normal(size=(400, 20)), rng.normal(size=(400, 20)))
    apart = audit.example_epsilons(rng.normal(size=(400, 20)), 50 + rng.normal(size=(400, 20)))
    assert np.isinf(apart).all()
    assert audit.forgetting_quality(apart) == pytest.approx(2 / 2**13)
    # Rare tails make epsilons of equal distributions larger than 0, never as large as real ones.
    shifted = audit.example_epsilons(rng.normal(size=(400, 20)), 3 + rng.normal(size=(400, 20)))
    assert np.median(null) < np.median(shifted)
    assert audit.forgetting_quality(null) > 2 * audit.forgetting_quality(shifted)


def test_epsilon_of_coin_flips_is_the_log_odds_ratio():
    """Outputs 0 or 1, P(1) = 3/4 against 1/4: the best rule has FPR = FNR = 1/4: log 3."""
    unlearned = np.repeat([0.0, 1.0], [100, 300])[:, None]
    oracle = np.repeat([0.0, 1.0], [300, 100])[:, None]
    epsilon = audit.example_epsilons(unlearned, oracle)
    assert epsilon[0] == pytest.approx(np.log(3))


def test_intervals_catch_what_single_thresholds_miss(rng):
    """Same median, different spread: only a double threshold tells them apart."""
    narrow = rng.uniform(-0.5, 0.5, size=(500, 1))
    wide = rng.uniform(-2, 2, size=(500, 1))
    epsilon = audit.example_epsilons(narrow, wide)[0]
    inside = scipy.stats.uniform(-2, 4).cdf(0.5) - scipy.stats.uniform(-2, 4).cdf(-0.5)
    # 'Unlearned inside (-1/2, 1/2)': FNR 0 there; the other ratio certifies log(1 / FPR).
    assert epsilon > np.log(1 / inside) - 0.3


def test_bins_halve_the_score():
    assert audit.forgetting_quality(np.array([0.0, 0.49])) == 1
    assert audit.forgetting_quality(np.array([0.5, 0.99])) == 0.5
    assert audit.forgetting_quality(np.array([0.2, 1.2])) == pytest.approx((1 + 0.25) / 2)
    assert audit.challenge_score(0.5, 0.9, 0.8, 1.0, 0.8) == pytest.approx(0.45)


def test_few_models_warn_and_other_examples_are_refused(rng):
    with pytest.warns(UserWarning, match="hundreds of models"):
        audit.example_epsilons(rng.normal(size=(5, 2)), rng.normal(size=(5, 2)))
    with pytest.raises(ValueError, match="same examples"):
        audit.example_epsilons(np.zeros((5, 2)), np.zeros((5, 3)))
