"""LiRA, U-LIRA and RMIA on distributions with known answers, and against plain loops."""

import ml_dtypes
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
    with pytest.raises(ValueError, match="gamma must be >= 1, got 0.5"):
        audit.rmia(target, population, reference, reference_population, gamma=0.5)


def test_rmia_of_non_members_is_uniform(rng):
    """Examples drawn as the population are: the null."""
    confidences = scipy.special.expit(rng.normal(size=(11, 3000)))
    target, reference = confidences[0], confidences[1:]
    scores = audit.rmia(target[:1000], target[1000:], reference[:, :1000], reference[:, 1000:])
    assert scipy.stats.kstest(scores, "uniform").pvalue > 0.01


def test_rmia_of_a_vanishing_confidence_is_finite():
    """Nothing beats what no model, and no reference model, believes in the least."""
    zero, half = np.zeros(1), np.full(4, 0.5)
    known = np.zeros((2, 1)), np.full((2, 4), 0.5)
    assert audit.rmia(zero, half, *known)[0] == 0
    assert audit.rmia(zero + 0.5, half, known[0] + 1e-3, known[1])[0] == 1


def test_u_lira_scores_are_of_gaussians_fitted_to_the_other_half(rng):
    """Against a plain loop over both folds, in any order of the models."""
    unlearned, oracle = rng.normal(1, 1, (6, 3)), rng.normal(0, 2, (5, 3))
    with pytest.warns(UserWarning, match="want 16 models of each kind, got 6 and 5"):
        found = audit.u_lira_scores(unlearned, oracle, seed=3)
    order = np.random.default_rng(3)
    halves = []
    for models, size in ((unlearned, 3), (oracle, 2)):
        shuffled = models[order.permutation(len(models))]
        halves.append((shuffled[:size], shuffled[size:]))
    for side in (0, 1):
        expected = []
        for judged in (1, 0):
            density = [
                scipy.stats.norm(h[1 - judged].mean(0), h[1 - judged].std(0, ddof=1)).logpdf
                for h in halves
            ]
            x = halves[side][judged]
            expected.append(density[0](x) - density[1](x))
        np.testing.assert_allclose(found[side], np.concatenate(expected).ravel(), atol=1e-9)


@pytest.mark.parametrize(("num_unlearned", "num_oracles"), [(16, 16), (21, 64)])
def test_an_independent_set_of_oracles_scores_as_chance(rng, num_unlearned, num_oracles):
    """The null values hold at any number of models: the judged ones fitted nothing."""
    found = []
    for _ in range(20):
        margins = rng.gumbel(size=(num_unlearned + num_oracles, 80)) * rng.uniform(0.5, 3, 80)
        found.append(audit.u_lira(margins[:num_unlearned], margins[num_unlearned:]))
    nulls = {"accuracy": 0.5, "auc": 0.5, "tpr_at_1%": 0.01, "tpr_at_0.1%": 0.001}
    for name, null in nulls.items():
        values = np.array([x[name] for x in found])
        assert abs(values.mean() - null) < 4 * values.std() / np.sqrt(20), name


def test_rates_are_the_best_of_all_thresholds(rng):
    """Also of scores that tie, where a ROC curve may leave points on a line out."""
    cases = [(rng.normal(1, 1, 700), rng.normal(size=2500)), (np.arange(1000.0),) * 2]
    cases.append(tuple(rng.integers(0, 30, (2, 900)) / 30))
    for positive, negative in cases:
        found = audit.rates(positive, negative)
        thresholds = np.append(np.unique(np.concatenate([positive, negative])), np.inf)
        true, false = (
            np.array([(x >= t).mean() for t in thresholds]) for x in (positive, negative)
        )
        for name, bound in (("tpr_at_0.1%", 0.001), ("tpr_at_1%", 0.01)):
            assert found[name] == pytest.approx(true[false <= bound].max())
        pairs = positive[:, None] - negative
        assert found["auc"] == pytest.approx((pairs > 0).mean() + (pairs == 0).mean() / 2)
        assert found["accuracy"] == (np.mean(positive > 0) + np.mean(negative <= 0)) / 2


@pytest.mark.filterwarnings("ignore:attacks by likelihood ratio")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_low_precision_changes_the_margins_not_the_attacks(rng, dtype):
    narrow = [(300 + 100 * rng.normal(size=(8, 5))).astype(dtype) for _ in range(3)]
    wide = [x.astype(np.float64) for x in narrow]
    np.testing.assert_array_equal(audit.lira(*narrow), audit.lira(*wide))
    assert np.isfinite(audit.lira(*narrow)).all()
    assert audit.u_lira(*narrow[:2]) == audit.u_lira(*wide[:2])
    sure = [rng.uniform(size=shape).astype(dtype) for shape in (9, 300, (20, 9), (20, 300))]
    assert (audit.rmia(*sure) == audit.rmia(*(x.astype(np.float64) for x in sure))).all()
    scores = [x.ravel() for x in narrow[:2]]
    assert audit.rates(*scores) == audit.rates(*(x.astype(np.float64) for x in scores))


def test_equal_models_differ_by_no_more_than_the_floor_of_their_spread():
    same = np.ones((16, 2))
    np.testing.assert_array_equal(audit.lira(same, same, same[:3]), np.zeros((3, 2)))
    assert audit.lira(same, same + 1, same[:1])[0, 0] == pytest.approx(1e12 / 2)


def test_what_the_attacks_refuse_names_the_argument(rng):
    fine, few = rng.normal(size=(16, 5)), rng.normal(size=(3, 5))
    broken = np.where(np.arange(5) == 2, np.nan, fine)
    names = ("member", "non_member", "target")
    for i, name in enumerate(names):
        given = [broken if i == j else fine for j in range(3)]
        with pytest.raises(ValueError, match=f"^{name} must be finite, got 16 of 80"):
            audit.lira(*given)
    with pytest.raises(ValueError, match="^target and member must be .models, examples."):
        audit.lira(fine, fine, fine[:, :4])
    with pytest.raises(ValueError, match="^oracle must be finite"):
        audit.u_lira(fine, broken)
    with pytest.raises(ValueError, match="at least 4 models of each kind are needed, got unl"):
        audit.u_lira(few, fine)
    assert audit.lira(fine, fine, few).shape == (3, 5)  # targets are not fitted to
    with pytest.warns(UserWarning, match="want 16 models of each kind, got 8 and 16"):
        audit.u_lira(fine[:8], fine)
    with pytest.raises(ValueError, match="^negative must be finite"):
        audit.rates(np.zeros(2), np.array([0.0, np.inf]))
    with pytest.raises(ValueError, match="^positive must be .N. with at least 1"):
        audit.rates(np.zeros(0), np.zeros(2))


def test_what_rmia_refuses_names_the_argument(rng):
    shapes = {"target": 9, "target_population": 40}
    shapes |= {"reference": (5, 9), "reference_population": (5, 40)}
    fine = {name: rng.uniform(0.1, 1, shape) for name, shape in shapes.items()}
    assert audit.rmia(**fine).shape == (9,)
    for name in fine:
        for value, message in ((np.inf, "finite"), (-1.0, "confidences, >= 0, got -1.0")):
            broken = fine[name].copy()
            broken.flat[0] = value
            with pytest.raises(ValueError, match=f"^{name} must be {message}"):
                audit.rmia(**{**fine, name: broken})
    with pytest.raises(ValueError, match="^target_population must be .examples., got .2, 20."):
        audit.rmia(**{**fine, "target_population": np.ones((2, 20))})
    with pytest.raises(ValueError, match="^target and reference must be .models, examples."):
        audit.rmia(**{**fine, "reference": np.ones((5, 8))})
    with pytest.raises(ValueError, match="gamma must be >= 1, got nan"):
        audit.rmia(**fine, gamma=np.nan)
