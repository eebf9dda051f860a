import numpy as np
import pytest
from scipy import integrate, stats

from unlearnjax.protection import mixture

LENGTH = 1.5  # of mu


def mean(size):
    return np.full(size, LENGTH / np.sqrt(size))


def simulated(rule, mu, positive, negative, draws=40_000):
    """Accuracy over draws, and its standard error."""
    rng = np.random.default_rng(0)
    right = []
    for sign, of_class in ((1, positive), (-1, negative)):
        x = (rng.normal(size=(draws, len(mu))) + sign * mu) @ of_class.T
        value = ((x @ rule.quadratic) * x).sum(1) + x @ rule.linear + rule.constant
        right.append((value > 0) == (sign > 0))
    right = np.concatenate(right)
    return right.mean(), right.std() / np.sqrt(len(right))


def scaled(size, b, length=LENGTH):
    """The accuracy for `A_+ = I`, `A_- = b I`, b > 1, along mu and across it."""
    bent, slope, constant = 1 / b**2 - 1, 2 * (1 + 1 / b), 2 * size * np.log(b)

    def positive(t):
        """Across mu there is a chi-square of D - 1."""
        return stats.chi2.cdf(-(constant + slope * length * t) / bent - t**2, size - 1)

    def above(sign):
        weighted = lambda t: stats.norm.pdf(t - sign * length) * positive(t)
        return integrate.quad(weighted, -10, 10, points=[0], limit=200)[0]

    return (above(1) + 1 - above(-1)) / 2


def test_clean_data_and_equal_filters_have_closed_forms():
    mu, same = mean(20), np.eye(20)
    clean = mixture.accuracy(mixture.best_rule(mu, same, same), mu)
    np.testing.assert_allclose(clean, stats.norm.cdf(LENGTH), atol=1e-8)
    a = mixture.toeplitz(20, 0.3)
    np.testing.assert_array_equal(a[:2, :4], [[1, 0.3, 0, 0], [0.3, 1, 0.3, 0]])
    np.testing.assert_array_equal(mixture.toeplitz(2, 0.3, 2.0), [[2, 0.3], [0.3, 2]])
    rule = mixture.best_rule(mu, a, a)
    np.testing.assert_allclose(rule.quadratic, 0, atol=1e-12)
    inverse = np.linalg.inv(a)
    expected = stats.norm.cdf(mu @ inverse @ mu / np.linalg.norm(inverse.T @ mu))
    np.testing.assert_allclose(mixture.accuracy(rule, mu), expected, atol=1e-8)
    np.testing.assert_allclose(expected, 0.93210, atol=1e-5)


@pytest.mark.parametrize(("size", "b"), [(2, 1.2), (20, 1.2), (20, 2.0), (200, 1.2)])
def test_scaled_classes_have_an_integral_and_are_worse_in_more_dimensions(size, b):
    mu = mean(size)
    rule = mixture.best_rule(mu, np.eye(size), b * np.eye(size))
    actual = mixture.accuracy(rule, mu)
    np.testing.assert_allclose(actual, scaled(size, b), atol=1e-5)
    known = {(20, 1.2): 0.91600, (20, 2.0): 0.63911, (200, 1.2): 0.67721}
    if (size, b) in known:
        np.testing.assert_allclose(actual, known[size, b], atol=2e-5)


@pytest.mark.parametrize(
    ("quadratic", "linear", "constant"),
    [(0.5, 1.0, -0.3), (-0.4, 0.7, 0.9), (1.0, 0.1, -2.0), (0.7, 1.2, 0.6)],
)
def test_on_a_line_a_rule_is_right_between_its_roots(quadratic, linear, constant):
    """By the normal distribution; there the characteristic function decays as slowly as it can."""
    mu, total = 0.8, 0.0
    rule = mixture.Rule(np.array([[quadratic]]), np.array([linear]), constant)
    roots = np.sort(np.roots([quadratic, linear, constant]))
    for sign in (1, -1):
        inside = 0.0
        if np.isreal(roots).all():
            inside = np.diff(stats.norm.cdf(roots.real, loc=sign * mu))[0]
        above = 1 - inside if quadratic > 0 else inside
        total += (above if sign == 1 else 1 - above) / 2
    np.testing.assert_allclose(mixture.accuracy(rule, np.array([mu])), total, atol=1e-5)


def test_filters_of_different_classes_are_told_apart_on_protected_data_alone():
    """Maps that are not symmetric, too, against draws."""
    mu = np.linspace(0.1, 0.6, 6)
    rng = np.random.default_rng(3)
    positive, negative = (np.eye(6) + 0.2 * rng.normal(size=(6, 6)) for _ in range(2))
    rule = mixture.best_rule(mu, positive, negative)
    for maps in ((np.eye(6), np.eye(6)), (positive, negative)):
        expected, error = simulated(rule, mu, *maps)
        assert abs(mixture.accuracy(rule, mu, *maps) - expected) < 4 * error
    protected = mixture.accuracy(rule, mu, positive, negative)
    # Nothing is better on protected data, nor is it on clean data.
    for worse in (
        mixture.best_rule(mu, np.eye(6), np.eye(6)),
        rule._replace(constant=rule.constant + 1.0),
        rule._replace(linear=2 * rule.linear),
    ):
        assert mixture.accuracy(worse, mu, positive, negative) < protected - 1e-4
    assert mixture.accuracy(rule, mu) < stats.norm.cdf(np.linalg.norm(mu)) - 0.01
    mu = mean(20)
    maps = mixture.toeplitz(20, 0.1), mixture.toeplitz(20, 0.4)
    rule = mixture.best_rule(mu, *maps)
    np.testing.assert_allclose(mixture.accuracy(rule, mu), 0.531, atol=2e-3)
    np.testing.assert_allclose(mixture.accuracy(rule, mu, *maps), 0.987, atol=2e-3)


def test_a_rule_that_always_says_the_same_is_right_half_of_the_time():
    for constant in (1.0, -1.0):
        rule = mixture.Rule(np.zeros((2, 2)), np.zeros(2), constant)
        assert mixture.accuracy(rule, np.ones(2)) == 0.5


def test_bad_maps_are_named():
    with pytest.raises(ValueError, match=r"negative must be \[D, D\] with D = 2 as mu's, got"):
        mixture.best_rule(np.ones(2), np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="positive must be invertible, its rank is below 2"):
        mixture.best_rule(np.ones(2), np.ones((2, 2)), np.eye(2))
