"""How good an attributor is: the linear datamodeling score."""

import numpy as np


def linear_datamodeling_score(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """`[K]`: Spearman correlation of predicted and actual outputs over held-out subsets.

    Args:
      predicted: `[S, K]` outputs predicted for S subsets.
      actual: `[S, K]` outputs of models trained on them.

    References:
      Park et al., "TRAK: Attributing Model Behavior at Scale", ICML 2023, definition 2.3.

    Examples:
      >>> actual = np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
      >>> linear_datamodeling_score(np.array([[0.1, 3.0], [0.2, 2.0], [0.9, 1.0]]), actual)
      array([ 1., -1.])
    """
    from scipy.stats import rankdata

    predicted, actual = np.asarray(predicted), np.asarray(actual)
    if predicted.shape != actual.shape or predicted.ndim != 2:
        raise ValueError(
            f"predicted and actual must be [subsets, outputs], got {predicted.shape} and "
            f"{actual.shape}"
        )
    ranks = [rankdata(x, axis=0) for x in (predicted, actual)]
    centred = [r - r.mean(0) for r in ranks]
    norms = [np.sqrt((c**2).sum(0)) for c in centred]
    product = (centred[0] * centred[1]).sum(0)
    return product / np.maximum(norms[0] * norms[1], 1e-12)


def score_interval(
    scores: np.ndarray, *, level: float = 0.95, num_draws: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean over outputs and its bootstrap interval: (mean, low, high)."""
    scores = np.asarray(scores)
    rng = np.random.default_rng(seed)
    draws = rng.choice(scores, (num_draws, len(scores))).mean(1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(scores.mean()), float(low), float(high)
