import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import analytic


def test_an_expansion_is_the_positive_part_of_a_fixed_projection(rng):
    projection = analytic.random_projection(jax.random.key(0), 12, 500)
    assert projection.shape == (12, 500)
    assert float(projection.std()) == pytest.approx(12**-0.5, rel=0.05)
    pixels = rng.integers(0, 256, (5, 2, 3, 2)).astype(np.uint8)
    expected = np.maximum(np.float64(pixels.reshape(5, 12)) @ np.float64(projection), 0)
    for given in (pixels, pixels.tolist(), pixels.astype(np.float16)):
        expanded = analytic.expand(projection, given)
        assert expanded.dtype == jnp.float32
        np.testing.assert_allclose(expanded, expected, rtol=1e-5, atol=1e-3)
    assert analytic.expand(projection, pixels[:0]).shape == (0, 500)
    with pytest.raises(ValueError, match="num_features must be >= 1"):
        analytic.random_projection(jax.random.key(0), 12, 0)


def test_targets_become_rows_of_zero_and_one():
    for given in ([2, 0], np.array([2, 0], np.uint8), jnp.array([2, 0])):
        assert analytic.one_hot(given, 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    assert analytic.one_hot([0], 1, jnp.float16).dtype == jnp.float16
    assert jax.jit(lambda y: analytic.one_hot(y, 3))(jnp.array([3, -1])).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0, 3], "targets must lie in 0..2, got 3"),
        ([-1, 0], "targets must lie in 0..2, got -1"),
        ([1.0, 2.0], "targets must be integers, got float32"),
    ],
)
def test_bad_targets_are_named(targets, message):
    with pytest.raises(ValueError, match=message):
        analytic.one_hot(targets, 3)
