"""The NeurIPS 2023 unlearning challenge's score: forgetting as an epsilon per example.

Triantafillou et al., "Are we making progress in unlearning?", 2024 (arXiv 2406.09073).
"""

import warnings

import numpy as np

NUM_BINS = 13
BIN_WIDTH = 0.5


def example_epsilons(
    unlearned: np.ndarray, oracle: np.ndarray, *, delta: float = 0.0
) -> np.ndarray:
    """`[N]`: the largest epsilon that a threshold attack certifies between two sets of models.

    For each forget example the attacker sees one scalar output per model and guesses 'unlearned' on
    one side of a threshold, or between two; false-positive and false-negative rates of every such
    rule give `max(log((1 - delta - FPR) / FNR), log((1 - delta - FNR) / FPR))`. A rule with both
    rates 0 separates perfectly: infinity; one with a single rate 0 certifies nothing by that ratio.

    Args:
      unlearned: `[M, N]` outputs (e.g. logit-scaled confidence) of M unlearned models.
      oracle: `[K, N]` of K retrained models.
      delta: of (epsilon, delta).

    Raises:
      ValueError: if the two do not have the same examples.
    """
    unlearned, oracle = np.asarray(unlearned), np.asarray(oracle)
    if unlearned.ndim != 2 or oracle.ndim != 2 or unlearned.shape[1] != oracle.shape[1]:
        raise ValueError(
            f"outputs must be [models, examples] of the same examples, got {unlearned.shape} and "
            f"{oracle.shape}"
        )
    if min(len(unlearned), len(oracle)) < 100:
        warnings.warn(
            "forgetting quality needs hundreds of models on each side, got "
            f"{len(unlearned)} and {len(oracle)}; epsilons will be crude",
            stacklevel=2,
        )
    return np.array(
        [_largest_epsilon(u, o, delta) for u, o in zip(unlearned.T, oracle.T, strict=True)]
    )


def forgetting_quality(epsilons: np.ndarray) -> float:
    """Mean over examples of `2 / 2^n`, n the bin (1 to 13, width 0.5) of the example's epsilon.

    In (0, 1]; 1 is ideal: no attack tells unlearned from retrained.

    Examples:
      >>> forgetting_quality(np.array([0.1, 0.3])), forgetting_quality(np.array([0.1, 0.6]))
      (1.0, 0.75)
    """
    bins = np.clip(np.floor(np.maximum(epsilons, 0) / BIN_WIDTH), 0, NUM_BINS - 1) + 1
    return float(np.mean(2.0 / 2.0**bins))


def challenge_score(
    quality: float,
    retain_accuracy: float,
    test_accuracy: float,
    oracle_retain_accuracy: float,
    oracle_test_accuracy: float,
) -> float:
    """Forgetting quality times the retain and test accuracies relative to the oracle's."""
    utility = retain_accuracy / oracle_retain_accuracy * test_accuracy / oracle_test_accuracy
    return quality * utility


def _largest_epsilon(unlearned: np.ndarray, oracle: np.ndarray, delta: float) -> float:
    values = np.unique(np.concatenate([unlearned, oracle]))
    cuts = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    below = [np.searchsorted(np.sort(x), cuts) / len(x) for x in (unlearned, oracle)]
    # Share of each set in (cut_i, cut_j], for all i < j: single thresholds have an infinite end.
    inside = [b[None, :] - b[:, None] for b in below]
    first, second = np.triu_indices(len(cuts), 1)
    hit, false_positive = (x[first, second] for x in inside)
    best = 0.0
    # 'Unlearned' inside the interval, or outside of it.
    for fpr, fnr in ((false_positive, 1 - hit), (1 - false_positive, hit)):
        if np.any((fpr < 1e-12) & (fnr < 1e-12)):
            return float("inf")
        for miss, other in ((fnr, fpr), (fpr, fnr)):
            usable = (miss > 1e-12) & (1 - delta - other > 1e-12)
            if usable.any():
                best = max(best, float(np.log((1 - delta - other[usable]) / miss[usable]).max()))
    return best
