"""KLoM, LiRA, U-LIRA and RMIA on distributions with known answers, and against plain loops."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from unlearnjax import audit


def slow_klom(p, q):
    """The definition, one example after another."""
    result = []
    for a, b in zip(np.clip(p, -100, 100).T, np.clip(q, -100, 100).T, strict=True):
        both = np.concatenate([a, b])
        edges = np.linspace(both.min(), both.max() if np.ptp(both) else both.min() + 1, 21)
        shares = [np.histogram(x, edges)[0] / len(x) for x in (a, b)]
        terms = [x * np.log(x / max(y, 1e-5)) for x, y in zip(*shares, strict=True) if x > 0]
        result.append(sum(terms))
    return np.array(result)


def test_klom_is_its_definition(rng):
    p, q = rng.normal(size=(120, 7)), rng.normal(1.0, 2.0, size=(150, 7))
    p[:, 3], q[:, 3] = 2.5, 2.5
    p[:, 4] *= 1000
    np.testing.assert_allclose(audit.klom(p, q), slow_klom(p, q), atol=1e-12)
    assert audit.klom(p, q)[3] == 0


def test_klom_of_shifted_gaussians_nears_the_analytic_divergence(rng):
    p, q = rng.normal(1.0, 1.0, (20_000, 3)), rng.normal(0.0, 1.0, (20_000, 3))
    np.testing.assert_allclose(audit.klom(p, q), 0.5, atol=0.05)  # (mean difference)^2 / 2
    same = rng.normal(size=(20_000, 3))
    assert (audit.klom(same, q) < 0.01).all()


def test_klom_of_disjoint_supports_is_the_ceiling(rng):
    p, q = rng.uniform(0, 1, (100, 2)), rng.uniform(50, 51, (100, 2))
    np.testing.assert_allclose(audit.klom(p, q), np.log(1e5), atol=1e-9)


def test_the_published_edge_can_be_had(rng):
    p, q = rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) - 20
    dropped = audit.klom(p, q, drop_maximum=True)
    assert (dropped < audit.klom(p, q)).all()


def test_the_noise_floor_is_what_independent_oracles_score(rng):
    oracles = rng.normal(size=(200, 50))
    floor = audit.noise_floor(oracles).mean()
    null = audit.klom(rng.normal(size=(100, 50)), rng.normal(size=(100, 50))).mean()
    assert floor == pytest.approx(null, rel=0.15)
    assert floor < 0.1 * audit.klom(rng.normal(3.0, 1.0, (100, 50)), oracles[:100]).mean()


@pytest.mark.filterwarnings("ignore:KLoM wants")
def test_few_models_are_warned_of_and_other_examples_refused(rng):
    with pytest.warns(UserWarning, match="KLoM wants 100 models on each side, got 20 and 30"):
        audit.klom(rng.normal(size=(20, 3)), rng.normal(size=(30, 3)))
    with pytest.raises(ValueError, match="of the same examples"):
        audit.klom(rng.normal(size=(20, 3)), rng.normal(size=(30, 4)))
    with pytest.raises(ValueError, match="margins must be finite"):
        audit.klom(np.full((20, 3), np.nan), rng.normal(size=(30, 3)))
    with pytest.raises(ValueError, match="at least 4 oracles"):
        audit.noise_floor(rng.normal(size=(3, 3)))


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
