"""The NeurIPS 2023 unlearning challenge's score: forgetting as an epsilon per example.

Triantafillou et al., "Are we making progress in unlearning?", 2024 (arXiv 2406.09073); published
code: github.com/google-deepmind/unlearning_evaluation, `metric.py`. Where ours differs:

- The attackers there try a grid of a hundred thresholds per unit, intervals about as wide as the
  narrower population, and one direction: what is inside is the narrower, what is above has the
  larger median. Ours try every threshold and interval in both directions: epsilons are at least as
  large, also of equal populations, so read `forgetting_quality_null`.
- There, a rule that has one rate of 0 is skipped and a population a hundred times narrower than the
  other is separated by definition. Ours keep the ratio that is defined: outputs with ties
  (saturated, of low precision) may have no other.
- There, `ceil(2 log(models - 1))` bins at most, 14 of 512 models, and no points beyond the last.
"""

import warnings

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs

DELTA = 1e-5
NUM_BINS = 13
BIN_WIDTH = 0.5


def example_epsilons(
    unlearned: np.ndarray, oracle: np.ndarray, *, delta: float = DELTA
) -> np.ndarray:
    """`[N]`: the largest epsilon that a threshold attack certifies between two sets of models.

    For each forget example the attacker sees one scalar output per model and guesses 'unlearned' on
    one side of a threshold, or between two; false-positive and false-negative rates of every such
    rule give `max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR))`. A rule with both
    rates 0 separates perfectly: infinity; one with a single rate 0 certifies nothing by that ratio.
    Outputs count by their order alone.

    Needs: hundreds of models on each side. Value of a perfect unlearner: 0 with infinitely many
    models; larger is worse. Null value: far from 0, since the best of so many rules fits noise:
    about 2.3 with 100 models on each side, 1.3 with 500. See `forgetting_quality_null`.

    Args:
      unlearned: `[M, N]` outputs (e.g. `tasks.margin`, the logit-scaled confidence) of M unlearned
        models.
      oracle: `[K, N]` of K retrained models.
      delta: of (epsilon, delta), in [0, 1].

    Raises:
      ValueError: if the two do not have the same examples, an output is not finite, or `delta` is
        out of range.

    Cost: `N (M + K)^2 / 2` look-ups; 0.1 s for 1000 examples and 100 models on each side.
    """
    outputs = _validated(unlearned, oracle, delta)
    labels = np.repeat([True, False], [*map(len, outputs)])
    return _largest(*_ranked(outputs), labels, _certified(*map(len, outputs), delta))


def forgetting_quality(epsilons: np.ndarray) -> float:
    """Mean over examples of `2 / 2^n`, n the bin (1 to 13, width 0.5) of the example's epsilon.

    In (0, 1], larger is better. A perfect unlearner has 1 with infinitely many models only; with as
    many as there are it has the null value, `forgetting_quality_null`: 0.06 with 100 models on each
    side, 0.2 with 500. Print it beside.

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
        raise ValueError(f"epsilons must be numbers, at least one, got {epsilons}")
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
    ones; all examples of a model stay together. The mean is what a perfect unlearner scores with as
    many models; unlearning fails by this audit where its quality is below nearly all of these.

    Args:
      unlearned, oracle, delta: as in `example_epsilons`.
      seed: of the permutations.
      num_permutations: how many; 20 for the mean, hundreds for a significance.

    Raises:
      ValueError: as in `example_epsilons`.

    Cost: `num_permutations` times `example_epsilons`.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> unlearned, oracle = rng.normal(size=(2, 120, 50))
      >>> quality = forgetting_quality(example_epsilons(unlearned, oracle))
      >>> null = forgetting_quality_null(unlearned, oracle)
      >>> round(quality, 2), round(null.mean(), 2)  # perfect: the null value, not 1
      (0.07, 0.07)
    """
    outputs = _validated(unlearned, oracle, delta)
    checks.at_least(1, num_permutations=num_permutations)
    ranked = _ranked(outputs)
    table = _certified(*map(len, outputs), delta)
    labels = np.repeat([True, False], [*map(len, outputs)])
    rng = np.random.default_rng(seed)
    dealt = (rng.permutation(labels) for _ in range(num_permutations))
    return np.array([forgetting_quality(_largest(*ranked, own, table)) for own in dealt])


def challenge_score(
    quality: float,
    retain_accuracy: float,
    test_accuracy: float,
    oracle_retain_accuracy: float,
    oracle_test_accuracy: float,
) -> float:
    """Forgetting quality times the retain and test accuracies relative to the oracle's.

    Larger is better; a perfect unlearner has the null value of the quality.

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


def _ranked(outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`[M + K, N]`: the models of each example in the order of their outputs, and what is tied.

    That is, has the same output as the model above it.
    """
    both = np.concatenate(outputs)
    order = np.argsort(both, axis=0)
    ranked = np.take_along_axis(both, order, axis=0)
    tied = np.zeros(both.shape, bool)
    tied[:-1] = ranked[:-1] == ranked[1:]
    return order, tied


def _certified(num_unlearned: int, num_oracles: int, delta: float) -> np.ndarray:
    """`[(M + 1) (K + 1)]`: epsilons of the rules by an interval with h unlearned and f oracles.

    At `h (K + 1) + f`. Guessing 'unlearned' inside of the interval, or outside of it.
    """
    hit = np.arange(num_unlearned + 1)[:, None]
    false = np.arange(num_oracles + 1)[None]
    best = np.zeros((num_unlearned + 1, num_oracles + 1))
    for missed, called in ((num_unlearned - hit, false), (hit, num_oracles - false)):
        fnr, fpr = np.broadcast_arrays(missed / num_unlearned, called / num_oracles)
        for rate, other in ((fnr, fpr), (fpr, fnr)):
            rest = 1 - delta - other
            usable = (rate > 0) & (rest > 0)
            ratio = np.divide(rest, rate, out=np.ones_like(best), where=usable)
            best = np.maximum(best, np.log(ratio))
        best[(fnr == 0) & (fpr == 0)] = np.inf
    return best.ravel()


def _largest(order, tied, unlearned: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`[N]`: the largest entry of the table over all intervals between two cuts.

    Args:
      order, tied: of `_ranked`.
      unlearned: `[M + K]`, whether the model is an unlearned one.
      table: of `_certified`.
    """
    step = np.where(unlearned[order], len(unlearned) - unlearned.sum() + 1, 1)
    # No cut between equal outputs: there the last one below counts once more.
    below = np.maximum.accumulate(np.where(tied, 0, np.cumsum(step, axis=0)), axis=0)
    below = np.concatenate([np.zeros_like(below[:1]), below])
    best = np.zeros(below.shape[1])
    for models in range(1, len(below)):
        inside = table.take(below[models:] - below[:-models])
        best = np.maximum(best, inside.max(0))
    return best
