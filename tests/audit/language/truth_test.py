"""Truth ratios and forget quality against SciPy, and their values under the null."""

import numpy as np
import pytest
import scipy.stats

from unlearnjax.audit import language

RNG = np.random.default_rng(0)
TRUE, FALSE = RNG.exponential(size=20) + 0.1, RNG.exponential(size=(20, 5)) + 0.1


@pytest.mark.parametrize(
    "options, mean",
    [
        ((), scipy.stats.gmean),
        (("geometric",), scipy.stats.gmean),
        (("arithmetic",), np.mean),
    ],
)
def test_the_ratio_is_of_means_of_probabilities(options, mean):
    expected = mean(np.exp(-FALSE), axis=1) / np.exp(-TRUE)
    found = language.log_truth_ratio(TRUE, FALSE, *options)
    np.testing.assert_allclose(np.exp(found), expected, rtol=1e-12)


def test_what_is_reported():
    log_ratios = language.log_truth_ratio(TRUE, FALSE)
    ratios = np.exp(log_ratios)
    expected = np.mean(np.minimum(ratios, 1 / ratios))
    np.testing.assert_allclose(language.forget_truth(log_ratios), expected, rtol=1e-12)
    expected = np.mean(np.maximum(0, 1 - ratios))
    np.testing.assert_allclose(language.retain_truth(log_ratios), expected, rtol=1e-12)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_a_collapsed_model_has_the_ratio_that_it_has(mean):
    found = language.log_truth_ratio(TRUE + 5000, FALSE + 5000, mean)
    np.testing.assert_allclose(found, language.log_truth_ratio(TRUE, FALSE, mean), atol=1e-10)
    assert language.forget_truth([9000.0, -9000.0]) == 0
    assert language.retain_truth([9000.0, -9000.0]) == 0.5


def test_forget_quality_is_the_test_of_scipy_on_ratios_or_their_logs():
    x, y = RNG.normal(size=30), RNG.normal(0.5, size=40)
    expected = scipy.stats.ks_2samp(np.exp(x), np.exp(y))
    found = language.forget_quality(x, y)
    assert found["p_value"] == expected.pvalue and found["statistic"] == expected.statistic
    assert found["log10_p"] == np.log10(expected.pvalue)


def test_a_p_value_of_zero_has_a_logarithm():
    found = language.forget_quality(np.zeros(5000), np.ones(5000))
    assert found["p_value"] == 0 and found["log10_p"] == -np.inf


def brute_force(unlearned, oracles):
    models = [unlearned, *oracles]
    scores = [
        np.mean([scipy.stats.ks_2samp(a, b).statistic for b in models if b is not a])
        for a in models
    ]
    return np.mean([round(s - scores[0], 12) >= 0 for s in scores]), scores


def test_calibrated_quality_is_the_share_of_scores_at_least_as_large():
    for shift in (0.0, 0.5, 2.0):
        unlearned, oracles = RNG.normal(shift, size=25), RNG.normal(size=(4, 25))
        quality, scores = brute_force(unlearned, oracles)
        found = language.calibrated_forget_quality(unlearned, oracles)
        assert found.quality == quality
        np.testing.assert_allclose(found.distance, scores[0], rtol=1e-12)
        np.testing.assert_allclose(found.oracle_distances, scores[1:], rtol=1e-12)
    assert quality == 0.2


def test_calibrated_quality_is_uniform_where_the_model_is_one_more_oracle():
    """Questions are shared, which makes the p-value of a single test anything but uniform."""
    qualities, draws = [], 500
    for _ in range(draws):
        questions = 3 * RNG.normal(size=200)
        models = questions + RNG.normal(size=(4, 1)) + RNG.normal(size=(4, 200))
        qualities.append(language.calibrated_forget_quality(models[0], models[1:]).quality)
    counts = [np.sum(np.isclose(qualities, (i + 1) / 4)) for i in range(4)]
    assert sum(counts) == draws
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_models_that_do_not_differ_pass():
    assert language.calibrated_forget_quality(np.zeros(3), np.zeros((2, 3))).quality == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: language.log_truth_ratio(TRUE, FALSE, "median"), "mean must be one of"),
        (lambda: language.log_truth_ratio(TRUE[1:], FALSE), "of the same questions"),
        (lambda: language.log_truth_ratio(TRUE, FALSE[:, 0]), "of the same questions"),
        (lambda: language.log_truth_ratio(FALSE, FALSE), "of the same questions"),
        (lambda: language.log_truth_ratio(TRUE, FALSE[:, :0]), "of the same questions"),
        (lambda: language.log_truth_ratio(TRUE * np.nan, FALSE), "true_losses must be finite"),
        (lambda: language.forget_truth([]), "log_ratios must be"),
        (lambda: language.retain_truth([np.inf]), "log_ratios must be finite"),
        (lambda: language.forget_quality([1.0], []), "oracle must be"),
        (
            lambda: language.calibrated_forget_quality(TRUE, FALSE.T[:1]),
            "at least 2 models",
        ),
        (
            lambda: language.calibrated_forget_quality(TRUE[1:], FALSE.T),
            r"unlearned must be \[N\] for oracles \[K, N\]",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
