"""KLoM: per example, how differently unlearned models and oracles distribute their margins.

Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", ICLR 2025 (arXiv
2410.23232); published code: github.com/RoyRin/data-unlearning-bench, `src/eval.py`.
"""

import warnings

import numpy as np

from unlearnjax import checks
from unlearnjax.audit import inputs

NUM_BINS = 20
CLIP = 100.0
FLOOR = 1e-5
ENOUGH_MODELS = 100


def klom(unlearned: np.ndarray, oracle: np.ndarray, *, drop_maximum: bool = False) -> np.ndarray:
    """`[N]`: KL divergence in nats of unlearned models' margins from oracles', per example.

    Margins are clipped to [-100, 100] and counted in 20 equal bins from the smallest to the largest
    of both sets; then `sum_b p_b log(p_b / max(q_b, 1e-5))` with p of the unlearned models, and 0
    where the floor, which adds up to 0.0002 to the sum of q, would make that negative. Margins
    beyond the clip count as equal: the audit does not tell models that are that sure from another.

    Needs: 100 models on each side. Value of a perfect unlearner: 0; larger is worse, disjoint
    distributions have log(1e5), about 11.5. Null value: positive, since finitely many models never
    fill bins equally; it is `noise_floor`, 0.3 with 100 models.

    Args:
      unlearned: `[M, N]` margins (`tasks.margin`) of M unlearned models, of independent originals.
      oracle: `[K, N]` of K models retrained without the forget set.
      drop_maximum: as in the published benchmark. Its bins leave the largest margin of both sets
        out, and with it all that equal it; shares are of the models that are left, and the floored
        q is normalised. NaN, as there, where no unlearned model is left.

    Raises:
      ValueError: if the two do not have the same examples, or a margin is not finite.

    Examples:
      >>> rng = np.random.default_rng(0)
      >>> oracle, unlearned = rng.normal(size=(200, 3)), rng.normal(size=(200, 3))
      >>> unlearned[:, 2] += 20  # still sure of the third example
      >>> klom(unlearned, oracle).round()
      array([ 0.,  0., 10.])
    """
    sides = inputs.populations(unlearned=unlearned, oracle=oracle)
    if min(map(len, sides)) < ENOUGH_MODELS:
        warnings.warn(
            f"KLoM wants {ENOUGH_MODELS} models on each side, got {len(sides[0])} and "
            f"{len(sides[1])}; its noise floor is high",
            stacklevel=2,
        )
    sides = [np.clip(x, -CLIP, CLIP) for x in sides]
    both = np.concatenate(sides)
    low, high = both.min(0), both.max(0)
    edges = np.linspace(low, np.where(high > low, high, low + 1), NUM_BINS + 1)
    with np.errstate(invalid="ignore"):  # nobody is left
        p, q = (_shares(x, edges, drop_maximum) for x in sides)
        q = np.where(p > 0, np.fmax(q, FLOOR), q)
        if drop_maximum:
            q = q / np.nansum(q, axis=0)
    ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
    return np.maximum(np.sum(p * np.log(ratio), axis=0), 0)


def noise_floor(oracle: np.ndarray, *, seed: int = 0, num_splits: int = 10) -> np.ndarray:
    """`[N]`: mean `klom` of one random half of the oracles from the other.

    The null value of `klom` with half as many models: an upper estimate of that with all.

    Args:
      oracle: `[K, N]` margins of K oracles, at least 4.
      seed: of the halves.
      num_splits: how often to halve.

    Raises:
      ValueError: as `klom`; for fewer than 4 oracles.
    """
    (oracle,) = inputs.populations(4, oracle=oracle)
    checks.at_least(1, num_splits=num_splits)
    rng, half = np.random.default_rng(seed), len(oracle) // 2
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(num_splits):
            order = rng.permutation(len(oracle))
            values.append(klom(oracle[order[:half]], oracle[order[half : 2 * half]]))
    return np.mean(values, axis=0)


def _shares(margins: np.ndarray, edges: np.ndarray, drop_maximum: bool) -> np.ndarray:
    """`[bins, N]`: shares of the models between neighbouring edges `[bins + 1, N]`."""
    reached = np.stack([(margins >= edge).sum(0) for edge in edges])
    counts = reached[:-1] - reached[1:]
    if not drop_maximum:
        counts[-1] += reached[-1]
    return counts / counts.sum(0)
