"""LiRA, U-LIRA and RMIA on distributions with known answers, and against plain loops."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from unlearnjax import audit


def test_lira_is_the_ratio_of_the_fitted_gaussians(rng):
    member, other = rng.normal(2, 1, (50, 4)), rng.normal(0, 2, (60, 4))
    target = rng.normal(size=(3, 4))
    expected = scipy.stats.norm.logpdf(
        target, member.mean(0), member.std(0, ddof=1)
    ) - scipy.stats.norm.logpdf(target, other.mean(0), other.std(0, ddof=1))
    np.testing.assert_allclose(audit.lira(member, other, target), expected, atol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_u_lira_of_shifted_gaussians_has_the_analytic_accuracy(rng, shift):
    unlearned, oracle = rng.normal(shift, 1, (400, 100)), rng.normal(0, 1, (400, 100))
    result = audit.u_lira(unlearned, oracle)
    normal = scipy.stats.norm
    assert result["accuracy"] == pytest.approx(normal.cdf(shift / 2), abs=0.01)
    assert result["auc"] == pytest.approx(normal.cdf(shift / np.sqrt(2)), abs=0.01)
    assert result["tpr_at_1%"] == pytest.approx(normal.cdf(shift - normal.ppf(0.99)), abs=0.03)


def test_u_lira_sees_a_spread_that_means_do_not_show(rng):
    unlearned, oracle = rng.normal(0, 3, (200, 50)), rng.normal(0, 1, (200, 50))
    assert audit.u_lira(unlearned, oracle)["accuracy"] > 0.7


def test_rmia_counts_the_population_that_is_beaten(rng):
    target, population = rng.uniform(0.1, 1, 9), rng.uniform(0.1, 1, 40)
    reference, reference_population = rng.uniform(0.1, 1, (5, 9)), rng.uniform(0.1, 1, (5, 40))
    scores = audit.rmia(target, population, reference, reference_population, gamma=1.2)
    for i in range(9):
        own = target[i] / reference[:, i].mean()
        others = population / reference_population.mean(0)
        assert scores[i] == np.mean(own / others >= 1.2)
    with pytest.raises(ValueError, match="gamma must be >= 1"):
        audit.rmia(target, population, reference, reference_population, gamma=0.5)


def test_rmia_of_non_members_is_uniform(rng):
    """Examples drawn as the population are: the null."""
    confidences = scipy.special.expit(rng.normal(size=(11, 3000)))
    target, reference = confidences[0], confidences[1:]
    scores = audit.rmia(target[:1000], target[1000:], reference[:, :1000], reference[:, 1000:])
    assert scipy.stats.kstest(scores, "uniform").pvalue > 0.01


def test_too_few_models_are_refused_or_warned_of(rng):
    with pytest.raises(ValueError, match="at least 4 models of each kind"):
        audit.u_lira(rng.normal(size=(3, 5)), rng.normal(size=(9, 5)))
    with pytest.warns(UserWarning, match="want 16 models"):
        audit.u_lira(rng.normal(size=(8, 5)), rng.normal(size=(9, 5)))
