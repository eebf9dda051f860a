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


def test_layer_distances_add_up_where_float16_overflows():
    big, none = np.full(9, 300.0, np.float16), np.zeros(9, np.float16)
    assert audit.layer_distances({"w": big}, {"w": none}) == {"w": 900.0}
    ones = {"w": jnp.ones(1024, jnp.bfloat16)}
    assert audit.layer_distances(ones, {"w": jnp.zeros(1024)}) == {"w": 32.0}


def test_layer_distances_are_of_the_same_arrays():
    params = {"a": np.ones(2), "b": np.ones((2, 2))}
    for other, differ in (
        ({"a": np.ones(2), "c": np.ones((2, 2))}, "'b', 'c'"),
        ({"a": np.ones(1), "b": np.ones((2, 2))}, "'a'"),
        ({"a": np.ones(2)}, "'b'"),
    ):
        with pytest.raises(ValueError, match=f"^oracle_params must have .* differ: .{differ}.$"):
            audit.layer_distances(params, other)
    with pytest.raises(ValueError, match="^oracle_params b must be finite, got 4 of 4"):
        audit.layer_distances(params, {"a": np.ones(2), "b": np.full((2, 2), np.nan)})


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32])
def test_low_precision_changes_the_predictions_not_the_distances(rng, dtype):
    p, q = (probabilities(rng, 2000, 10).astype(dtype) for _ in range(2))
    for distance_of, exact in (
        (audit.activation_distance, lambda a, b: np.linalg.norm(a - b, axis=1).mean()),
        (audit.zero_retrain_forgetting, lambda a, b: 1 - audit.jensen_shannon(a, b).mean()),
    ):
        expected = exact(p.astype(np.float64), q.astype(np.float64))
        assert distance_of(p, q) == pytest.approx(expected, rel=1e-6)


def test_nearly_equal_predictions_have_no_negative_divergence(rng):
    p = probabilities(rng, 2000)
    q = np.abs(p + 1e-9 * rng.normal(size=p.shape))
    assert (audit.jensen_shannon(p, q / q.sum(1, keepdims=True)) >= 0).all()


@pytest.mark.parametrize(
    "distance_of", [audit.activation_distance, audit.jensen_shannon, audit.zero_retrain_forgetting]
)
def test_distances_are_of_predictions_for_the_same_examples(rng, distance_of):
    p = probabilities(rng)
    for other in (p[:1], p[0], p[:, :3], p[None]):
        with pytest.raises(ValueError, match="^probs and .* must be .N, C. of the same examples"):
            distance_of(p, other)
    with pytest.raises(ValueError, match="^probs must be finite"):
        distance_of(np.where(p > 0.5, np.nan, p), p)
    with pytest.raises(ValueError, match="must be probabilities, >= 0"):
        distance_of(p, np.log(p))
