"""Protected mixtures of two Gaussians, whose best classifier is known.

The theory of Sadasivan, Soltanolkotabi, Feizi, "CUDA: Convolution-based Unlearnable Datasets", CVPR
2023 (arXiv 2303.04278): y is 1 or -1, each half of the time, `x | y ~ N(y mu, I)`; what is
published is `A_y x`. The paper bounds the accuracy of what is best on `A_y x` on clean x; here it
is computed, exactly up to a numerical integral. On the host, in float64.
"""

from typing import NamedTuple

import numpy as np

from unlearnjax.types import Array


class Rule(NamedTuple):
    """Says 1 where `x' quadratic x + linear' x + constant > 0`, else -1.

    Attributes:
      quadratic: `[D, D]`, symmetric.
      linear: `[D]`.
      constant: scalar.
    """

    quadratic: np.ndarray
    linear: np.ndarray
    constant: float


def toeplitz(size: int, beside: float, centre: float = 1.0) -> np.ndarray:
    """`[D, D]`, tridiagonal: what a filter `(beside, centre, beside)` does to a signal."""
    off = np.full(size - 1, float(beside))
    return np.diag(np.full(size, float(centre))) + np.diag(off, 1) + np.diag(off, -1)


def best_rule(mu: Array, positive: Array, negative: Array) -> Rule:
    """The Bayes rule of the protected mixture, `A_+ x` and `A_- x`.

    With `S_y = A_y A_y'`: `x'(S_-^-1 - S_+^-1)x + 2(A_+^-T + A_-^-T)mu'x + log|S_-| - log|S_+|`;
    the terms of mu alone cancel.

    Args:
      mu: `[D]`.
      positive, negative: `A_+` and `A_-`, `[D, D]`.

    Raises:
      ValueError: for other shapes, or a map that cannot be inverted.
    """
    mu, *maps = (np.asarray(x, np.float64) for x in (mu, positive, negative))
    for name, of_class in zip(("positive", "negative"), maps, strict=True):
        if of_class.shape != (len(mu), len(mu)):
            raise ValueError(
                f"{name} must be [D, D] with D = {len(mu)} as mu's, got {[*of_class.shape]}"
            )
        if np.linalg.matrix_rank(of_class) < len(mu):
            raise ValueError(f"{name} must be invertible, its rank is below {len(mu)}")
    plus, minus = (np.linalg.inv(of_class) for of_class in maps)
    log_plus, log_minus = (2 * np.linalg.slogdet(of_class)[1] for of_class in maps)
    return Rule(minus.T @ minus - plus.T @ plus, 2 * (plus + minus).T @ mu, log_minus - log_plus)


def accuracy(rule: Rule, mu: Array, positive: Array | None = None, negative: Array | None = None):
    """How often the rule says y, of clean data, or of `A_y x`.

    The rule's value is a weighted sum of non-central chi-squares and a normal; the probability
    that it is positive is an integral of its characteristic function (Gil-Pelaez, Biometrika 1951;
    Imhof, Biometrika 1961). Exact to about 1e-6. Cost: an eigendecomposition per class.

    Args:
      rule: see `best_rule`.
      mu: `[D]`.
      positive, negative: `A_+` and `A_-` of the data that is judged; clean, the identity, by
        default.
    """
    mu = np.asarray(mu, np.float64)
    right = []
    for sign, of_class in ((1, positive), (-1, negative)):
        a = np.eye(len(mu)) if of_class is None else np.asarray(of_class, np.float64)
        mean = sign * a @ mu
        # Of z ~ N(0, I), where what is judged is mean + A z.
        quadratic = a.T @ rule.quadratic @ a
        linear = a.T @ (rule.linear + 2 * rule.quadratic @ mean)
        constant = mean @ rule.quadratic @ mean + rule.linear @ mean + rule.constant
        above = _above_0(quadratic, linear, constant)
        right.append(above if sign == 1 else 1 - above)
    return float(np.mean(right))


def _above_0(quadratic: np.ndarray, linear: np.ndarray, constant: float) -> float:
    """The probability of `z' quadratic z + linear' z + constant > 0` for `z ~ N(0, I)`."""
    from scipy import integrate

    weights, vectors = np.linalg.eigh((quadratic + quadratic.T) / 2)
    slopes = vectors.T @ linear
    spread = np.sqrt(2 * (weights**2).sum() + (slopes**2).sum())
    if spread == 0:
        return float(constant > 0)
    weights, slopes, constant = weights / spread, slopes / spread, constant / spread

    def characteristic(t):
        """The characteristic function over t."""
        factors = 1 - 2j * t * weights
        exponent = np.log(factors).sum() + (t * slopes) ** 2 @ (1 / factors)
        return np.exp(1j * t * constant - 0.5 * exponent) / t

    # Where it has decayed, or is smooth but for one frequency, which it tends to in few dimensions.
    middle, options = 10.0, {"limit": 200, "epsabs": 1e-9}
    total, _ = integrate.quad(lambda t: characteristic(t).imag, 1e-12, middle, **options)
    bent = np.abs(weights) > 1e-12
    frequency = constant - (slopes[bent] ** 2 / (4 * weights[bent])).sum()
    if np.abs(characteristic(middle)) > 1e-12:
        smooth = lambda t: characteristic(t) * np.exp(-1j * t * frequency)
        for part, weight in ((np.imag, "cos"), (np.real, "sin")):
            tail, _ = integrate.quad(
                lambda t, part=part: part(smooth(t)),
                middle,
                np.inf,
                weight=weight,
                wvar=frequency,
                epsabs=1e-9,
            )
            total += tail
    return 0.5 + total / np.pi
