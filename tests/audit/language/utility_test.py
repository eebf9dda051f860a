"""Utility against SciPy, choices against their definition."""

import numpy as np
import pytest
import scipy.special
import scipy.stats

from unlearnjax.audit import language

RNG = np.random.default_rng(0)


def test_utilities_are_harmonic_means():
    three = RNG.uniform(size=(3, 3))
    expected = scipy.stats.hmean(three[0])
    np.testing.assert_allclose(language.retain_utility(*three[0]), expected, rtol=1e-12)
    expected = scipy.stats.hmean(three.ravel())
    np.testing.assert_allclose(language.model_utility(*three), expected, rtol=1e-12)


def test_one_zero_is_zero():
    assert language.retain_utility(1.0, 0.0, 1.0) == 0
    assert language.model_utility([1, 1, 1], [1, 1, 0], [1, 1, 1]) == 0


def test_the_probability_of_a_choice_is_its_share():
    true, false = RNG.exponential(size=6), RNG.exponential(size=(6, 3))
    p, q = np.exp(-true), np.exp(-false)
    found = language.choice_probability(true, false)
    np.testing.assert_allclose(found, p / (p + q.sum(1)), rtol=1e-12)
    collapsed = language.choice_probability(true + 3000, false + 3000)
    np.testing.assert_allclose(collapsed, found, rtol=1e-9)


def test_choices_are_right_where_their_score_is_largest():
    scores, right = RNG.normal(size=(200, 4)), RNG.integers(4, size=200)
    expected = np.mean(scores.argmax(1) == right)
    np.testing.assert_allclose(language.choice_accuracy(scores, right), expected, rtol=1e-12)


def test_equal_options_are_chosen_by_chance():
    scores = [[1.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.0, 1.0, 1.0]]
    found = language.choice_accuracy(scores, [0, 2, 0])
    np.testing.assert_allclose(found, (1 / 2 + 1 / 3 + 0) / 3, rtol=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: language.retain_utility(1.2, 0.5, 0.5), r"probability must lie in \[0, 1\]"),
        (lambda: language.retain_utility(1, np.nan, 0.5), r"rouge must lie in \[0, 1\]"),
        (lambda: language.model_utility([1, 1], [1, 1, 1], [1, 1, 1]), "retain must be three"),
        (lambda: language.model_utility([1] * 3, [1, 2, 1], [1] * 3), r"real_authors\[1\] must"),
        (lambda: language.choice_accuracy([[1.0, 2.0]], [2]), "options 0 to C - 1"),
        (lambda: language.choice_accuracy([[1.0, 2.0]], [0, 1]), "options 0 to C - 1"),
        (lambda: language.choice_accuracy([1.0], [0]), "options 0 to C - 1"),
        (lambda: language.choice_accuracy([[np.inf, 1.0]], [0]), "scores must be finite"),
        (lambda: language.choice_probability([1.0], [[1.0], [2.0]]), "of the same questions"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
