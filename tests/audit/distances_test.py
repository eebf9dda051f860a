import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance

from unlearnjax import audit


def probabilities(rng, n=50, c=4):
    return rng.dirichlet(np.ones(c), n)


def test_jensen_shannon_is_scipys_squared_distance_in_bits(rng):
    p, q = probabilities(rng), probabilities(rng)
    expected = [distance.jensenshannon(a, b, base=2) ** 2 for a, b in zip(p, q, strict=True)]
    np.testing.assert_allclose(audit.jensen_shannon(p, q), expected, atol=1e-12)
    np.testing.assert_allclose(audit.jensen_shannon(q, p), expected, atol=1e-12)


def test_extremes_of_the_distances():
    one, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert audit.jensen_shannon(one, one) == 0 and audit.jensen_shannon(one, other) == 1
    assert audit.zero_retrain_forgetting(one, one) == 1
    assert audit.zero_retrain_forgetting(one, other) == 0
    assert audit.activation_distance(one, one) == 0
    assert audit.activation_distance(one, other) == pytest.approx(np.sqrt(2))


def test_activation_distance_by_hand():
    p, q = np.array([[0.6, 0.4], [1.0, 0.0]]), np.array([[0.3, 0.7], [1.0, 0.0]])
    assert audit.activation_distance(p, q) == pytest.approx(np.hypot(0.3, 0.3) / 2)


def test_layer_distances_by_name():
    params = {"a": {"w": jnp.array([3.0, 0.0])}, "b": jnp.array([1.0])}
    other = {"a": {"w": jnp.array([0.0, 4.0])}, "b": jnp.array([1.0])}
    assert audit.layer_distances(params, other) == {"a.w": 5.0, "b": 0.0}
