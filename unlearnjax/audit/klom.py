"""KLoM: per example, how differently unlearned models and oracles distribute their margins.

Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", ICLR 2025 (arXiv
2410.23232).
"""

import warnings

import numpy as np

NUM_BINS = 20
CLIP = 100.0
FLOOR = 1e-5
ENOUGH_MODELS = 100


def klom(unlearned: np.ndarray, oracle: np.ndarray, *, drop_maximum: bool = False) -> np.ndarray:
    """`[N]`: KL divergence in nats of unlearned models' margins from oracles', per example.

    Margins are clipped to [-100, 100] and counted in 20 equal bins from the smallest to the largest
    of both sets; then `sum_b p_b log(p_b / max(q_b, 1e-5))` with p of the unlearned models. 0 is
    ideal, disjoint distributions have log(1e5), about 11.5. Finitely many models give a positive
    value even of equal distributions: compare with `noise_floor`.

    Args:
      unlearned: `[M, N]` margins (`tasks.margin`) of M unlearned models, of independent originals.
      oracle: `[K, N]` of K models retrained without the forget set.
      drop_maximum: the published code loses the largest margin of each example to a bin beyond the
        last; True does so too.

    Raises:
      ValueError: if the two do not have the same examples, or a margin is not finite.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> oracle, unlearned = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
      >>> unlearned[:, 2] += 20  # still sure of the third example
      >>> klom(unlearned, oracle).round()
      array([ 0.,  0., 10.])
    """
    unlearned, oracle = _validated(unlearned, oracle)
    both = np.concatenate([unlearned, oracle])
    low, high = both.min(0), both.max(0)
    width = np.where(high > low, high - low, 1.0) / NUM_BINS
    p, q = (_histogram(x, low, width, drop_maximum) for x in (unlearned, oracle))
    ratio = np.where(p > 0, p / np.maximum(q, FLOOR), 1.0)
    return np.sum(p * np.log(ratio), axis=0)


def noise_floor(oracle: np.ndarray, *, seed: int = 0, num_splits: int = 10) -> np.ndarray:
    """`[N]`: mean `klom` of one random half of the oracles from the other.

    What perfect unlearning would score with half as many models: an upper estimate of the floor.
    """
    oracle = np.asarray(oracle)
    if len(oracle) < 4:
        raise ValueError(f"a noise floor needs at least 4 oracles, got {len(oracle)}")
    rng, half = np.random.default_rng(seed), len(oracle) // 2
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(num_splits):
            order = rng.permutation(len(oracle))
            values.append(klom(oracle[order[:half]], oracle[order[half : 2 * half]]))
    return np.mean(values, axis=0)


def _histogram(margins, low, width, drop_maximum: bool) -> np.ndarray:
    """`[bins, N]` shares of the models."""
    bins = np.floor((margins - low) / width).astype(int)
    inside = bins < NUM_BINS
    if not drop_maximum:
        bins, inside = np.minimum(bins, NUM_BINS - 1), np.ones_like(inside)
    counts = np.zeros((NUM_BINS, margins.shape[1]))
    columns = np.broadcast_to(np.arange(margins.shape[1]), bins.shape)
    np.add.at(counts, (bins[inside], columns[inside]), 1.0)
    return counts / len(margins)


def _validated(unlearned, oracle) -> tuple[np.ndarray, np.ndarray]:
    unlearned, oracle = (np.asarray(x, np.float64) for x in (unlearned, oracle))
    if unlearned.ndim != 2 or oracle.ndim != 2 or unlearned.shape[1] != oracle.shape[1]:
        raise ValueError(
            f"margins must be [models, examples] of the same examples, got {unlearned.shape} and "
            f"{oracle.shape}"
        )
    if not (np.isfinite(unlearned).all() and np.isfinite(oracle).all()):
        raise ValueError("margins must be finite, got NaN or infinity")
    if min(len(unlearned), len(oracle)) < ENOUGH_MODELS:
        warnings.warn(
            f"KLoM wants {ENOUGH_MODELS} models on each side, got {len(unlearned)} and "
            f"{len(oracle)}; its noise floor is high",
            stacklevel=3,
        )
    return np.clip(unlearned, -CLIP, CLIP), np.clip(oracle, -CLIP, CLIP)
