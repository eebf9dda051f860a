"""Truth ratio: are wrong answers as likely as the right one? And forget quality, made of it.

Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", COLM 2024 (arXiv 2401.06121).
"""

from typing import NamedTuple

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs

MEANS = ("geometric", "arithmetic")


def log_truth_ratio(
    true_losses: np.ndarray, false_losses: np.ndarray, mean: str = "geometric"
) -> np.ndarray:
    """`[N]`: log R, of `R = mean_j exp(-nll(y_j)) / exp(-nll(y))`, y_j the wrong answers.

    In logs, so that a collapsed model, to which all answers are impossible, has the ratio that it
    has; the public code adds 1e-10 to denominators. R is 1 where the model cannot tell.

    Args:
      true_losses: `[N]`, nll per token of the right answer, paraphrased.
      false_losses: `[N, K]` of perturbed answers to the same questions.
      mean: 'geometric', of the wrong answers' probabilities, as open-unlearning and TOFU's forget
        quality; or 'arithmetic', as the paper and TOFU's utility.

    Raises:
      ValueError: for another mean, losses that are not finite, or not of the same questions.

    Examples:
      >>> np.exp(log_truth_ratio(np.log([2.0]), np.log([[4.0, 1.0]]))).round(3)
      array([1.])
      >>> np.exp(log_truth_ratio(np.log([2.0]), np.log([[4.0, 1.0]]), "arithmetic")).round(3)
      array([1.25])
    """
    checks.one_of(mean=(mean, MEANS))
    true, false = choices(true_losses, false_losses)
    if mean == "geometric":
        return true - false.mean(1)
    return true + np.logaddexp.reduce(-false, axis=1) - np.log(false.shape[1])


def forget_truth(log_ratios: np.ndarray) -> float:
    """`mean min(R, 1 / R)`, the truth ratio of a forget set: 1 where the model cannot tell.

    In (0, 1]. Value of a perfect unlearner: the oracle's, 0.67 for Llama-2-7b on TOFU.

    Args:
      log_ratios: `[N]` of `log_truth_ratio`.

    Examples:
      >>> forget_truth(np.log([2.0, 0.5, 1.0]))
      0.6666666666666666
    """
    (log_ratios,) = inputs.scores(log_ratios=log_ratios)
    return float(np.exp(-np.abs(log_ratios)).mean())


def retain_truth(log_ratios: np.ndarray) -> float:
    """`mean max(0, 1 - R)`, the truth ratio of what is retained: 1 where wrong answers are out.

    In [0, 1). Value of a perfect unlearner: the oracle's.

    Args:
      log_ratios: `[N]` of `log_truth_ratio`.

    Examples:
      >>> round(retain_truth(np.log([2.0, 0.5])), 2)
      0.25
    """
    (log_ratios,) = inputs.scores(log_ratios=log_ratios)
    return float(-np.expm1(np.minimum(log_ratios, 0)).mean())


def forget_quality(unlearned: np.ndarray, oracle: np.ndarray) -> dict[str, float]:
    """Do the forget set's truth ratios under the model look like those under one oracle?

    The two-sample Kolmogorov-Smirnov test. Value of a perfect unlearner: p is uniform in [0, 1] in
    theory; but questions are shared and oracles differ, so print what another oracle scores beside
    it. It depends on the number of questions, and on the one oracle that was drawn; and a wrecked
    model may pass. See `calibrated_forget_quality`.

    Args:
      unlearned: `[N]` truth ratios or, which is the same here, their logs.
      oracle: `[M]` of the oracle.

    Returns:
      `p_value`, `log10_p` (-infinity where p is 0) and `statistic`, the largest distance of the two
      distribution functions.

    Raises:
      ValueError: for a ratio that is not finite, or none.

    Examples:
      >>> x = np.linspace(0, 1, 40)
      >>> forget_quality(x, x)["p_value"], forget_quality(x, x + 2)["statistic"]
      (1.0, 1.0)
    """
    from scipy.stats import ks_2samp

    found = ks_2samp(*inputs.scores(unlearned=unlearned, oracle=oracle))
    p = float(found.pvalue)
    with np.errstate(divide="ignore"):
        return {
            "p_value": p,
            "log10_p": float(np.log10(p)),
            "statistic": float(found.statistic),
        }


class Calibrated(NamedTuple):
    """How an unlearned model stands among oracles.

    Attributes:
      quality: the share of the K + 1 models that are at least as far from the others as it is.
      distance: its mean Kolmogorov-Smirnov distance to the K oracles.
      oracle_distances: `[K]`, each oracle's to the K others, the unlearned model among them.
    """

    quality: float
    distance: float
    oracle_distances: np.ndarray


def calibrated_forget_quality(unlearned: np.ndarray, oracles: np.ndarray) -> Calibrated:
    """Is the model further from the oracles than they are from one another? Ours.

    Each of the K + 1 models has a score, the mean Kolmogorov-Smirnov distance of its truth ratios
    to those of the others; the quality is the share of the K + 1 scores that are at least as large
    as the unlearned model's. Where that is one more oracle, all orders are alike: it is then
    uniform on 1 / (K + 1), ..., 1, but for ties, which raise it. The smallest value says that the
    model is furthest from all. Unlike a p-value it knows how much oracles differ on the same
    questions. Not to be compared between numbers of oracles.

    Needs: at least 2 oracles, better 9. Larger is better. Value of a perfect unlearner, and null
    value: that uniform distribution, of mean `(K + 2) / (2 K + 2)`. An oracle's own is its quality
    among the others.

    Args:
      unlearned: `[N]` truth ratios or their logs, or any other number per question.
      oracles: `[K, N]` of the same questions.

    Raises:
      ValueError: for other shapes, fewer than 2 oracles or a value that is not finite.

    Cost: of `K (K + 1) / 2` sorted comparisons of N numbers.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> oracles = rng.normal(size=(4, 100))
      >>> calibrated_forget_quality(rng.normal(size=100) + 3, oracles).quality  # 1 of 5
      0.2
    """
    (oracles,) = inputs.populations(2, oracles=oracles)
    (unlearned,) = inputs.scores(unlearned=unlearned)
    if unlearned.shape != oracles.shape[1:]:
        raise ValueError(
            f"unlearned must be [N] for oracles [K, N], got {unlearned.shape} and {oracles.shape}"
        )
    models = np.sort(np.concatenate([unlearned[None], oracles]), axis=1)
    apart = np.zeros((len(models), len(models)), int)
    for i, j in zip(*np.triu_indices(len(models), 1), strict=True):
        apart[i, j] = apart[j, i] = _furthest(models[i], models[j])
    # As whole numbers, so that ties are ties whatever the order of the sum.
    sums = apart.sum(1)
    distances = sums / (len(oracles) * unlearned.size)
    return Calibrated(float(np.mean(sums >= sums[0])), float(distances[0]), distances[1:])


def choices(true_losses: np.ndarray, false_losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses `[N]` and `[N, K]` of right and wrong answers to the same questions, in float64.

    Raises:
      ValueError: for other shapes, or a value that is not finite.
    """
    true, false = inputs.finite(true_losses=true_losses, false_losses=false_losses)
    if true.ndim != 1 or false.ndim != 2 or len(true) != len(false) or not false.size:
        raise ValueError(
            "true_losses and false_losses must be [N] and [N, K] of the same questions, got "
            f"{true.shape} and {false.shape}"
        )
    return true.astype(np.float64), false.astype(np.float64)


def _furthest(x: np.ndarray, y: np.ndarray) -> int:
    """N times the Kolmogorov-Smirnov distance of two sorted samples of N."""
    both = np.concatenate([x, y])
    below = [np.searchsorted(sample, both, side="right") for sample in (x, y)]
    return int(np.abs(below[0] - below[1]).max())
