"""Attacks by many models: LiRA, its unlearning version U-LIRA, and RMIA.

All look at margins (logit-scaled confidences) `[models, examples]`.
"""

import warnings
from collections.abc import Mapping

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs

ENOUGH_MODELS = 16


def lira(member: np.ndarray, non_member: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`[T, N]`: log-likelihood ratio that each target model has seen each example.

    Per example a Gaussian is fitted to the margins of models that were trained on it and one to
    those of models that were not.

    Needs: 16 models of each kind, better 100. Value of a perfect unlearner: that of oracles that
    fitted nothing, which is the null value, too: it varies by example and is below 0 on average.
    Larger means more of the example is left.

    Args:
      member: `[M, N]` margins of models with the example, at least 4.
      non_member: `[K, N]` of models without it, at least 4.
      target: `[T, N]` of the models under attack.

    Raises:
      ValueError: if they do not have the same examples, for too few models, or if a margin is not
        finite.

    References:
      Carlini et al., "Membership Inference Attacks From First Principles", IEEE S&P 2022.
    """
    member, non_member = _fitted(member=member, non_member=non_member)
    target, _ = inputs.populations(target=target, member=member)
    return _log_normal(target, member) - _log_normal(target, non_member)


def u_lira(unlearned: np.ndarray, oracle: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """Can an attacker tell unlearned models from oracles, example by example?

    An example of a model is called unlearned where `u_lira_scores` is positive.

    Needs: 16 models on each side, better 100. Values of a perfect unlearner, null values at any
    number of models: accuracy and AUC 0.5, true-positive rates 0.001 and 0.01 (or less, where
    there are fewer than 1000 or 100 scores). Larger is worse.

    Args, Raises: see `u_lira_scores`.

    Returns:
      `accuracy` (balanced), `auc`, `tpr_at_0.1%`, `tpr_at_1%` (of calling unlearned what is, at
      that rate of calling unlearned what is not).

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> oracle, forgot, kept = rng.normal(size=(3, 64, 50)) + np.array([0, 0, 4]).reshape(3, 1, 1)
      >>> round(u_lira(forgot, oracle)["auc"], 1), round(u_lira(kept, oracle)["auc"], 1)
      (0.5, 1.0)
    """
    return rates(*u_lira_scores(unlearned, oracle, seed=seed))


def u_lira_scores(
    unlearned: np.ndarray, oracle: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihood ratio of unlearned to oracle, of every example of every model.

    Half of each set fits the two Gaussians, the other half is judged, then the other way round.

    Args:
      unlearned: `[M, N]` margins of models that were trained on the examples and unlearned them,
        at least 4.
      oracle: `[K, N]` of models that never saw them, at least 4.
      seed: of the halves.

    Returns:
      Scores `[M N]` of the unlearned models and `[K N]` of the oracles.

    Raises:
      ValueError: if the two do not have the same examples, for too few models, or if a margin is
        not finite.

    References:
      Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of
      Privacy", 2024 (arXiv 2403.01218).
    """
    unlearned, oracle = _fitted(unlearned=unlearned, oracle=oracle)
    rng = np.random.default_rng(seed)
    halves = []
    for margins in (unlearned, oracle):
        order = rng.permutation(len(margins))
        halves.append((margins[order[: len(order) // 2]], margins[order[len(order) // 2 :]]))
    (u_fit, u_judge), (o_fit, o_judge) = halves
    scores = [], []
    for fit, judge in (((u_fit, o_fit), (u_judge, o_judge)), ((u_judge, o_judge), (u_fit, o_fit))):
        for own, margins in zip(scores, judge, strict=True):
            own.append((_log_normal(margins, fit[0]) - _log_normal(margins, fit[1])).ravel())
    return np.concatenate(scores[0]), np.concatenate(scores[1])


def rmia(
    target: np.ndarray,
    target_population: np.ndarray,
    reference: np.ndarray,
    reference_population: np.ndarray,
    *,
    gamma: float = 1.0,
) -> np.ndarray:
    """`[N]`: share of population points that the example beats in relative likelihood.

    `Pr_z[ (p(x | target) / p(x)) / (p(z | target) / p(z)) >= gamma ]` with p(x) the mean over
    reference models that were not trained on x; higher is more likely a member. No distribution is
    assumed.

    Needs: a few reference models, and a population of the example's distribution. Value of a
    perfect unlearner: the oracle's. Null value: of examples drawn as the population is, uniform on
    [0, 1]; of a forget set that differs from it, the scores of oracles.

    Args:
      target: `[N]` confidences of the true class under the model that is attacked.
      target_population: `[P]` the same for points of the population.
      reference: `[K, N]` under K reference models (oracles).
      reference_population: `[K, P]`.
      gamma: >= 1.

    Raises:
      ValueError: for `gamma` below 1, or confidences that are negative, not finite or of other
        shapes.

    References:
      Zarifzadeh et al., "Low-Cost High-Power Membership Inference Attacks", ICML 2024.
    """
    checks.at_least(1, gamma=gamma)
    own = _relative("target", target, "reference", reference)
    others = _relative(
        "target_population", target_population, "reference_population", reference_population
    )
    # own / other >= gamma, counted for all z at once by sorting.
    ranked = np.sort(others)
    return np.searchsorted(ranked, own / gamma, side="right") / len(ranked)


def rates(positive: np.ndarray, negative: np.ndarray) -> Mapping[str, float]:
    """Of scores: balanced accuracy at threshold 0, AUC, true-positive rates at 0.1 % and 1 %.

    A true-positive rate is the largest of all thresholds whose false-positive rate is no larger.
    Null values, of two sets of scores from one distribution: 0.5, 0.5, 0.001, 0.01.

    Args:
      positive: `[P]` scores of what is to be found.
      negative: `[N]` of the rest.

    Raises:
      ValueError: if one is empty or has a score that is not finite.

    Examples:
      >>> found = rates(np.array([2.0, 1.0, -1.0]), np.array([-3.0, -2.0, 0.5]))
      >>> round(found["accuracy"], 3), round(found["auc"], 3)
      (0.667, 0.889)
    """
    from sklearn.metrics import roc_curve

    positive, negative = inputs.scores(positive=positive, negative=negative)
    labels = np.repeat([1, 0], [len(positive), len(negative)])
    scores = np.concatenate([positive, negative])
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    accuracy = (np.mean(positive > 0) + np.mean(negative <= 0)) / 2
    return {
        "accuracy": float(accuracy),
        "auc": float(np.trapezoid(true, false)),
        "tpr_at_0.1%": float(true[false <= 0.001].max()),
        "tpr_at_1%": float(true[false <= 0.01].max()),
    }


def _log_normal(x: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Log density of a Gaussian fitted to a sample, per example, up to a constant."""
    mean, std = sample.mean(0), np.maximum(sample.std(0, ddof=1), 1e-6)
    return -(((x - mean) / std) ** 2) / 2 - np.log(std)


def _relative(name: str, target, reference_name: str, reference) -> np.ndarray:
    """`[N]`: confidences under the target by their mean under the reference models."""
    target, reference = np.asarray(target), np.asarray(reference)
    if target.ndim != 1:
        raise ValueError(f"{name} must be [examples], got {target.shape}")
    sides = {name: target[None], reference_name: reference}
    sides = dict(zip(sides, inputs.populations(**sides), strict=True))
    for side, values in sides.items():
        if values.min() < 0:
            raise ValueError(f"{side} must be confidences, >= 0, got {values.min()}")
    return sides[name][0] / np.maximum(sides[reference_name].mean(0), 1e-30)


def _fitted(**margins: np.ndarray) -> list[np.ndarray]:
    """Two populations that Gaussians are fitted to."""
    sides = inputs.populations(4, **margins)
    if min(map(len, sides)) < ENOUGH_MODELS:
        warnings.warn(
            f"attacks by likelihood ratio want {ENOUGH_MODELS} models of each kind, got "
            f"{len(sides[0])} and {len(sides[1])}; their Gaussians are rough",
            stacklevel=3,
        )
    return sides
