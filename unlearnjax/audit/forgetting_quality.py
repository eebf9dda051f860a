"""The NeurIPS 2023 unlearning challenge's score: forgetting as an epsilon per example.

Triantafillou et al., "Are we making progress in unlearning?", 2024 (arXiv 2406.09073); published
code: github.com/google-deepmind/unlearning_evaluation, `metric.py`. Differences to it:

- Thresholds there are a grid of a hundred per unit. Ours are all that matter: between every two
  neighbouring outputs.
- A rule that has one rate of 0 is skipped there. Ours keeps the ratio that is defined: outputs with
  ties (saturated, of low precision) may have no other.
- There are `ceil(2 log(models - 1))` bins there, 14 of 512 models, and no points beyond the last.
"""

import warnings

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs

DELTA = 1e-5
BUFFER = 2.0
PEAK = 0.01
NUM_BINS = 13
BIN_WIDTH = 0.5


def example_epsilons(
    unlearned: np.ndarray, oracle: np.ndarray, *, delta: float = DELTA
) -> np.ndarray:
    """`[N]`: the largest epsilon that a threshold attack certifies between two sets of models.

    For each forget example the attacker sees one scalar output per model and tells the populations
    apart by a threshold, above which lies the one of larger median, or by an interval, in which
    lies the narrower one; the interval is as wide as that one's range and ends at its maximum, both
    within 2. False-positive and false-negative rates of every such rule give
    `max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR))`. A rule with both rates 0
    separates perfectly: infinity, as for a population a hundred times narrower than the other; one
    with a single rate 0 certifies nothing by that ratio.

    Needs: hundreds of models on each side. Value of a perfect unlearner: not 0, since the best of
    many rules fits noise, but the null value: about 1.6 (the median) with 50 to 500 models on each
    side. Larger is worse.

    Args:
      unlearned: `[M, N]` logit-scaled confidences (`tasks.margin`) of M unlearned models.
      oracle: `[K, N]` of K retrained models.
      delta: of (epsilon, delta), in [0, 1].

    Raises:
      ValueError: if the two do not have the same examples, an output is not finite, or `delta` is
        out of range.

    Cost: up to `N (M + K)^2 / 2` rules; 0.3 s for 1000 examples and 100 models on each side.
    """
    outputs = _validated(unlearned, oracle, delta)
    return _epsilons(*outputs, delta)


def forgetting_quality(epsilons: np.ndarray) -> float:
    """Mean over examples of `2 / 2^n`, n the bin (1 to 13, width 0.5) of the example's epsilon.

    In (0, 1], larger is better. Value of a perfect unlearner: not 1, which takes epsilons below
    0.5 that a finite number of models hardly has, but the null value, about 0.19 with 50 to 500
    models on each side. Print `forgetting_quality_null` beside it.

    Args:
      epsilons: `[N]` of `example_epsilons`.

    Raises:
      ValueError: if there is none, or one is NaN.

    Examples:
      >>> forgetting_quality(np.array([0.1, 0.3])), forgetting_quality(np.array([0.1, 0.6]))
      (1.0, 0.75)
    """
    epsilons = np.asarray(epsilons, np.float64)
    if not epsilons.size or np.isnan(epsilons).any():
        bad = int(np.isnan(epsilons).sum())
        raise ValueError(f"epsilons must be at least one, none NaN, got {epsilons.size}, {bad} NaN")
    bins = np.clip(np.floor(np.maximum(epsilons, 0) / BIN_WIDTH), 0, NUM_BINS - 1) + 1
    return float(np.mean(2.0 / 2.0**bins))


def forgetting_quality_null(
    unlearned: np.ndarray,
    oracle: np.ndarray,
    *,
    delta: float = DELTA,
    seed: int = 0,
    num_permutations: int = 20,
) -> np.ndarray:
    """`[num_permutations]`: forgetting qualities of populations that do not differ.

    Each time the models of both populations are dealt anew into as many 'unlearned' and 'oracle'
    ones; a model's examples stay together. The mean is what a perfect unlearner scores with as many
    models, the quantiles are its interval: unlearning fails by this audit if its quality is below.

    Args:
      unlearned, oracle, delta: as in `example_epsilons`.
      seed: of the permutations.
      num_permutations: how many; 20 for the mean, hundreds for a significance.

    Raises:
      ValueError: as in `example_epsilons`, and for no permutation.

    Cost: `num_permutations` times `example_epsilons`.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> unlearned, oracle = rng.normal(size=(2, 100, 50))
      >>> quality = forgetting_quality(example_epsilons(unlearned, oracle))
      >>> null = forgetting_quality_null(unlearned, oracle)
      >>> round(quality, 1), round(float(null.mean()), 1)  # perfect
      (0.2, 0.2)
    """
    outputs = _validated(unlearned, oracle, delta)
    checks.at_least(1, num_permutations=num_permutations)
    models, rng = np.concatenate(outputs), np.random.default_rng(seed)
    qualities = []
    for _ in range(num_permutations):
        dealt = np.split(rng.permutation(models), [len(outputs[0])])
        qualities.append(forgetting_quality(_epsilons(*dealt, delta)))
    return np.array(qualities)


def challenge_score(
    quality: float,
    retain_accuracy: float,
    test_accuracy: float,
    oracle_retain_accuracy: float,
    oracle_test_accuracy: float,
) -> float:
    """Forgetting quality times the retain and test accuracies relative to the oracle's.

    Larger is better; the value of a perfect unlearner is the null value of the quality.

    Raises:
      ValueError: if an oracle's accuracy is not above 0.
    """
    checks.positive(
        oracle_retain_accuracy=oracle_retain_accuracy, oracle_test_accuracy=oracle_test_accuracy
    )
    utility = retain_accuracy / oracle_retain_accuracy * test_accuracy / oracle_test_accuracy
    return quality * utility


def _validated(unlearned, oracle, delta: float) -> list[np.ndarray]:
    outputs = inputs.populations(unlearned=unlearned, oracle=oracle)
    checks.share(delta=delta)
    if min(map(len, outputs)) < 100:
        warnings.warn(
            "forgetting quality needs hundreds of models on each side, got "
            f"{len(outputs[0])} and {len(outputs[1])}; epsilons will be crude",
            stacklevel=3,
        )
    return outputs


def _epsilons(unlearned: np.ndarray, oracle: np.ndarray, delta: float) -> np.ndarray:
    return np.array([_epsilon(u, o, delta) for u, o in zip(unlearned.T, oracle.T, strict=True)])


def _epsilon(unlearned: np.ndarray, oracle: np.ndarray, delta: float) -> float:
    """Of one example; a pair of populations is (the one to be called, the other)."""
    by_median = (unlearned, oracle)
    if np.median(oracle) > np.median(unlearned):
        by_median = (oracle, unlearned)
    by_range = by_median if np.ptp(by_median[0]) < np.ptp(by_median[1]) else by_median[::-1]
    if np.ptp(by_range[0]) < PEAK * np.ptp(by_range[1]):
        return np.inf
    # Cut i lies above `before[i]` and at most at `after[i]`. Models are compared with these values:
    # a number between two neighbours need not exist.
    values = np.unique(np.concatenate(by_median))
    after, before = np.append(values, np.inf), np.insert(values, 0, -np.inf)
    above = lambda x: len(x) - np.searchsorted(np.sort(x), after)
    left, right = _intervals(before, after, by_range[0])
    single = [above(x) for x in by_median]
    double = [above(x)[left] - above(x)[right] for x in by_range]
    sizes = ([len(x) for x in pair] for pair in (by_median, by_range))
    return max(
        _certified(*counts, *size, delta)
        for counts, size in zip((single, double), sizes, strict=True)
    )


def _intervals(before, after, narrow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of cuts between which an interval fits: it may have any ends within its cuts."""
    width, top = np.ptp(narrow), narrow.max()
    right = np.flatnonzero((after > top - BUFFER) & (before <= top + BUFFER))
    lowest = np.maximum(before[right], top - BUFFER)
    highest = np.minimum(after[right], top + BUFFER)
    fits = before[:, None] < highest - width + BUFFER
    fits &= after[:, None] >= lowest - width - BUFFER
    fits &= np.arange(len(before))[:, None] < right
    left, which = np.nonzero(fits)
    return left, right[which]


def _certified(
    hits: np.ndarray, false: np.ndarray, num_called: int, num_others: int, delta: float
) -> float:
    """The largest epsilon of rules that call `hits` of the one and `false` of the other."""
    fnr, fpr = (num_called - hits) / num_called, false / num_others
    if np.any((fnr == 0) & (fpr == 0)):
        return np.inf
    best = 0.0
    for rate, other in ((fnr, fpr), (fpr, fnr)):
        rest = 1 - delta - other
        usable = (rate > 0) & (rest > 0)
        if usable.any():
            best = max(best, float(np.log(np.max(rest[usable] / rate[usable]))))
    return best
