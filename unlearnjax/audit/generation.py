"""Did a generator forget? What judges say of its samples, and how far these are from others.

A judge is a classifier of real images (its training is no matter of this file): `probs` are its
predicted probabilities, `features` its penultimate activations. Distances of features are those of
this judge: they are no FID, which has the features of another network, and depend on the number of
samples. So compare equal numbers, and print beside each what real images score against real ones.
"""

from collections.abc import Sequence

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs


def class_shares(probs: np.ndarray) -> np.ndarray:
    """The share of samples that a judge takes for each class, `[C]`, of `probs` `[N, C]`.

    Raises:
      ValueError: for no samples, or what is negative or not finite.

    Examples:
      >>> class_shares(np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]]))
      array([0.25, 0.75])
    """
    (probs,) = inputs.probabilities(probs=probs)
    return np.bincount(probs.argmax(1), minlength=probs.shape[1]) / len(probs)


def total_variation(shares: np.ndarray, other: np.ndarray) -> float:
    """Half the sum of absolute differences of two histograms `[C]`, in [0, 1].

    Of a model's and an oracle's `class_shares` for the same conditions. Value of a perfect
    unlearner, and null value: that of one oracle against another one. Oracles never learned what
    the condition means, so that each may draw something else for it.

    Raises:
      ValueError: for histograms of different classes, or what is negative or sums not to 1.

    Examples:
      >>> total_variation([0.5, 0.5, 0.0], [0.5, 0.0, 0.5])
      0.5
    """
    given = [np.asarray(x, np.float64) for x in inputs.finite(shares=shares, other=other)]
    if len({x.shape for x in given}) > 1 or given[0].ndim != 1 or not given[0].size:
        raise ValueError(
            f"shares and other must be [C] of the same classes, got {given[0].shape} and "
            f"{given[1].shape}"
        )
    for name, x in zip(("shares", "other"), given, strict=True):
        if x.min() < 0 or abs(x.sum() - 1) > 1e-3:
            raise ValueError(f"{name} must be >= 0 and sum to 1, got {x.min()} and {x.sum()}")
    return float(np.abs(given[0] - given[1]).sum() / 2)


def judged(
    probs: np.ndarray, condition: np.ndarray, forgotten: Sequence[int] = ()
) -> dict[str, float]:
    """What a judge says of samples that were drawn for given classes.

    Needs: a judge, whose errors on real images bound every number; the original's and the oracle's
    values beside them. Value of a perfect unlearner: the oracle's. Null value: none of its own.

    Args:
      probs: `[N, C]` of the samples.
      condition: `[N]`, the class that each was drawn for.
      forgotten: the classes that were forgotten as a whole.

    Returns:
      `unlearning_accuracy`: 1 - share of the forgotten classes' samples that are taken for one of
      them. `p_forgotten` and `entropy` of the same samples: the mean probability of the forgotten
      classes, and the mean entropy of the prediction in nats: low where they became another class,
      high where they became noise. `retained_accuracy`: share of the other classes' samples that
      are taken for the class they were drawn for. NaN where there are no such samples.

    Raises:
      ValueError: for conditions that are no classes, or not one for each sample.

    References:
      Fan et al., "SalUn", ICLR 2024 (UA); Heng and Soh, "Selective Amnesia", NeurIPS 2023 (entropy,
      probability of the forgotten class).

    Examples:
      >>> probs = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.1, 0.8]])
      >>> found = judged(probs, np.array([0, 0, 2]), forgotten=(0,))
      >>> found["unlearning_accuracy"], round(found["p_forgotten"], 2), found["retained_accuracy"]
      (0.5, 0.55, 1.0)
    """
    (probs,) = inputs.probabilities(probs=probs)
    probs, condition = np.asarray(probs, np.float64), np.asarray(condition)
    classes = range(probs.shape[1])
    known = np.isin(condition, classes).all() and np.isin(forgotten, classes).all()
    if condition.shape != (len(probs),) or not known:
        raise ValueError(
            f"condition and forgotten must be classes 0 to {classes[-1]}, one for each of the "
            f"{len(probs)} samples, got shape {condition.shape}, values {np.unique(condition)} and "
            f"{tuple(forgotten)}"
        )
    said, forgotten = probs.argmax(1), np.asarray(forgotten, int)
    erased = np.isin(condition, forgotten)
    of_erased = probs[erased]
    surprise = -(of_erased * np.log(np.maximum(of_erased, 1e-30))).sum(1)
    return {
        "unlearning_accuracy": _mean(~np.isin(said[erased], forgotten)),
        "retained_accuracy": _mean((said == condition)[~erased]),
        "entropy": _mean(surprise),
        "p_forgotten": _mean(of_erased[:, forgotten].sum(1)),
    }


def frechet_distance(features: np.ndarray, other: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1^1/2 S2 S1^1/2)^1/2)`, with roots by symmetric
    eigendecomposition in float64, of which rounding makes nothing complex. Unbiased covariances.
    Never call it FID: features of a small judge give numbers on a scale of their own.

    Needs: equally many samples on both sides, the more the better: it shrinks with their number.
    Value of a perfect unlearner: the oracle's. Null value: of two sets of real images as large.
    Cost: of three products and two eigendecompositions of `[D, D]`.

    Args:
      features: `[N, D]`, N >= 2.
      other: `[M, D]`, M >= 2.

    Raises:
      ValueError: for other shapes, or features that are not finite.

    References:
      Dowson and Landau, "The Frechet Distance between Multivariate Normal Distributions", 1982;
      Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017.

    Examples:
      >>> x = np.random.default_rng(0).normal(size=(100, 3))
      >>> round(frechet_distance(x, x + np.array([3.0, 0.0, 4.0])), 6)
      25.0
    """
    sets = _features(2, features=features, other=other)
    means = [x.mean(0) for x in sets]
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in sets]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = np.linalg.eigvalsh(root @ covariances[1] @ root)
    overlap = np.sqrt(np.maximum(inner, 0)).sum()
    distance = ((means[0] - means[1]) ** 2).sum() + sum(map(np.trace, covariances)) - 2 * overlap
    return float(max(distance, 0.0))


def kernel_distance(features: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel `(x . y / D + 1)^3`.

    Needs no large samples, unlike `frechet_distance`: its expectation does not depend on their
    number, and may be negative. Value of a perfect unlearner: the oracle's. Null value: 0 in the
    mean. Cost: of products `[N, D] [D, M]`, and memory `[N, M]`.

    Args:
      features: `[N, D]`, N >= 2.
      other: `[M, D]`, M >= 2.

    Raises:
      ValueError: for other shapes, or features that are not finite.

    References:
      Binkowski et al., "Demystifying MMD GANs", ICLR 2018 (there with Inception features, KID).

    Examples:
      >>> kernel_distance(np.zeros((2, 1)), np.ones((2, 1)))  # 1 + 8 - 2 * 1
      7.0
    """
    x, y = _features(2, features=features, other=other)
    kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3

    def within(a):
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def precision_recall(
    real: np.ndarray, generated: np.ndarray, *, num_neighbours: int = 3
) -> dict[str, float]:
    """Are samples like the real ones, and are all kinds of real ones among them?

    The manifold of a set is the union of balls around its members, each as large as the distance to
    the member's k-th nearest other one. `precision` is the share of generated features in the real
    ones' manifold, `recall` the share of real ones in the generated ones'.

    Needs: equally many samples on both sides. Value of a perfect unlearner: the oracle's. Null
    value: of two sets of real images as large. Cost: distances of all pairs, memory `[N, M]`.

    Args:
      real: `[N, D]` features.
      generated: `[M, D]` features.
      num_neighbours: k, at least 1 and below the size of both sets.

    Raises:
      ValueError: for other shapes, features that are not finite, or too few for k.

    References:
      Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
      NeurIPS 2019.

    Examples:
      >>> line = np.arange(10.0)[:, None]
      >>> precision_recall(line, line[:5] + 0.1)
      {'precision': 1.0, 'recall': 0.8}
    """
    from scipy.spatial.distance import cdist

    checks.whole(num_neighbours=num_neighbours)
    checks.at_least(1, num_neighbours=num_neighbours)
    real, generated = _features(num_neighbours + 1, real=real, generated=generated)
    # In a sorted row the first is the distance to itself.
    radius = lambda x: np.partition(cdist(x, x), num_neighbours, axis=1)[:, num_neighbours]
    apart = cdist(real, generated)
    return {
        "precision": float((apart <= radius(real)[:, None]).any(0).mean()),
        "recall": float((apart <= radius(generated)[None]).any(1).mean()),
    }


def _features(minimum: int, **sets: np.ndarray) -> list[np.ndarray]:
    """`[N, D]` in float64, of the same D."""
    found = [np.asarray(x, np.float64) for x in inputs.finite(**sets)]
    few = any(x.ndim != 2 or len(x) < minimum or not x.size for x in found)
    if few or len({x.shape[1] for x in found}) > 1:
        raise ValueError(
            f"{' and '.join(sets)} must be [N, D] with the same features, N >= {minimum}, got "
            f"{' and '.join(str(x.shape) for x in found)}"
        )
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
