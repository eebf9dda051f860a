"""Distances between models: of their predictions on the same examples, and of their weights."""

import jax
import numpy as np

from unlearnjax import trees
from unlearnjax.audit import inputs
from unlearnjax.types import PyTree


def activation_distance(probs: np.ndarray, oracle_probs: np.ndarray) -> float:
    """Mean Euclidean distance of the predicted probabilities `[N, C]`, at most sqrt 2.

    Needs: an oracle, better several. Larger is worse. Value of a perfect unlearner, and null value:
    not 0, but the distance of oracles to one another.

    Raises:
      ValueError: if the shapes differ, or a probability is negative or not finite.

    References:
      Golatkar et al., "Forgetting Outside the Box", ECCV 2020.

    Examples:
      >>> oracle = np.array([[0.5, 0.5], [0.9, 0.1]])
      >>> unlearned = np.array([[0.5, 0.5], [0.6, 0.4]])
      >>> round(activation_distance(unlearned, oracle), 4)
      0.2121
    """
    probs, oracle_probs = inputs.probabilities(probs=probs, oracle_probs=oracle_probs)
    return float(np.linalg.norm(probs - oracle_probs, axis=-1).mean())


def jensen_shannon(probs: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`[N]`: Jensen-Shannon divergence in bits, symmetric, in [0, 1]; 0 where both agree.

    Needs, values: as `activation_distance`.

    Raises:
      ValueError: if the shapes differ, or a probability is negative or not finite.

    Examples:
      >>> jensen_shannon(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]]))
      array([1., 0.])
    """
    p, q = (np.asarray(x, np.float64) for x in inputs.probabilities(probs=probs, other=other))
    middle = (p + q) / 2
    return np.maximum(_relative_entropy(p, middle) + _relative_entropy(q, middle), 0) / 2


def zero_retrain_forgetting(probs: np.ndarray, incompetent_probs: np.ndarray) -> float:
    """ZRF: 1 less the mean Jensen-Shannon divergence (bits) to a randomly initialised model.

    On the forget set. Needs: a randomly initialised model, and an oracle to compare with. In
    [0, 1]. Value of a perfect unlearner, and null value: the oracle's, not 1; what is below it
    still knows something, what is above it knows too little.

    Raises:
      ValueError: if the shapes differ, or a probability is negative or not finite.

    References:
      Chundawat et al., "Can Bad Teaching Induce Forgetting?", AAAI 2023.
    """
    return float(1 - jensen_shannon(probs, incompetent_probs).mean())


def layer_distances(params: PyTree, oracle_params: PyTree) -> dict[str, float]:
    """Euclidean distance per parameter array, by dotted name; 0 is equality.

    Needs: an oracle, better several. Larger is worse. Value of a perfect unlearner, and null value:
    not 0, oracles of different seeds differ as well: compare with their distance to one another.

    Raises:
      ValueError: if the two do not have the same arrays, or one has a value that is not finite.

    Examples:
      >>> params = {"layer": {"kernel": np.ones((2, 2))}}
      >>> layer_distances(params, {"layer": {"kernel": np.zeros((2, 2))}})
      {'layer.kernel': 2.0}
    """
    sides = {"params": params, "oracle_params": oracle_params}
    given, wanted = (
        dict(zip(trees.names(tree), jax.tree.leaves(tree), strict=True)) for tree in sides.values()
    )
    shapes = [{name: np.shape(x) for name, x in side.items()} for side in (given, wanted)]
    if shapes[0] != shapes[1]:
        differ = [n for n in (shapes[0] | shapes[1]) if shapes[0].get(n) != shapes[1].get(n)]
        raise ValueError(f"oracle_params must have the arrays of params, these differ: {differ}")
    result = {}
    for name in given:
        pair = {f"{side} {name}": x[name] for side, x in zip(sides, (given, wanted), strict=True)}
        a, b = (np.asarray(x, np.float64) for x in inputs.finite(**pair))
        result[name] = float(np.linalg.norm(a - b))
    return result


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    ratio = np.where(p > 0, p / np.where(q > 0, q, 1), 1.0)
    return np.sum(p * np.log2(ratio), axis=-1)
