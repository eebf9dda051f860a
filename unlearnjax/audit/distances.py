"""Distances between models: of their predictions on the same examples, and of their weights."""

import jax
import numpy as np

from unlearnjax import trees
from unlearnjax.types import PyTree


def activation_distance(probs: np.ndarray, oracle_probs: np.ndarray) -> float:
    """Mean Euclidean distance of the predicted probabilities `[N, C]`; 0 is ideal, at most sqrt 2.

    References:
      Golatkar et al., "Forgetting Outside the Box", ECCV 2020.

    Examples:
      >>> oracle = np.array([[0.5, 0.5], [0.9, 0.1]])
      >>> unlearned = np.array([[0.5, 0.5], [0.6, 0.4]])
      >>> round(activation_distance(unlearned, oracle), 4)
      0.2121
    """
    return float(np.linalg.norm(np.asarray(probs) - np.asarray(oracle_probs), axis=-1).mean())


def jensen_shannon(probs: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`[N]`: Jensen-Shannon divergence in bits, symmetric, in [0, 1]; 0 where both agree.

    Examples:
      >>> jensen_shannon(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]]))
      array([1., 0.])
    """
    p, q = np.asarray(probs, np.float64), np.asarray(other, np.float64)
    middle = (p + q) / 2
    return (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2


def zero_retrain_forgetting(probs: np.ndarray, incompetent_probs: np.ndarray) -> float:
    """ZRF: 1 less the mean Jensen-Shannon divergence (bits) to a randomly initialised model.

    On the forget set. In [0, 1]; the ideal is the oracle's value, not 1.

    References:
      Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023.
    """
    return float(1 - jensen_shannon(probs, incompetent_probs).mean())


def layer_distances(params: PyTree, oracle_params: PyTree) -> dict[str, float]:
    """Euclidean distance per parameter array, by dotted name; 0 is equality.

    Oracles of different seeds differ as well: compare with their distance to one another.

    Examples:
      >>> params = {"layer": {"kernel": np.ones((2, 2))}}
      >>> layer_distances(params, {"layer": {"kernel": np.zeros((2, 2))}})
      {'layer.kernel': 2.0}
    """
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(oracle_params), strict=True)
    distances = [float(np.linalg.norm(np.asarray(a) - np.asarray(b))) for a, b in pairs]
    return dict(zip(trees.names(params), distances, strict=True))


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    ratio = np.where(p > 0, p / np.where(q > 0, q, 1), 1.0)
    return np.sum(p * np.log2(ratio), axis=-1)
