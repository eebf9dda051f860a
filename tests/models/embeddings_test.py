import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax.models import embeddings


def test_waves_by_hand():
    """As DDPM's code has them: sines first, the last frequency is one by ten thousand."""
    found = embeddings.waves(jnp.array([0, 3, 500.5]), 6)
    angles = np.array([0, 3, 500.5])[:, None] * np.array([1, 0.01, 0.0001])
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    slow = embeddings.waves(jnp.array([2.0]), 4, longest=5.0)
    np.testing.assert_allclose(slow[0], [np.sin(2), np.sin(0.4), np.cos(2), np.cos(0.4)], rtol=1e-5)


def test_positions_are_a_row_beside_a_column():
    found = embeddings.grid_positions(2, 3, 8)
    one = embeddings.waves(jnp.arange(3), 4)
    expected = [np.concatenate([one[y], one[x]]) for y in range(2) for x in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_classes_have_a_row_each_and_one_more_for_none():
    module = embeddings.Classes(3, 5, stddev=2.0)
    variables = module.init(jax.random.key(0), jnp.array([0]))
    table = variables["params"]["rows"]["embedding"]
    assert table.shape == (4, 5)
    found = module.apply(variables, jnp.array([3, 0, 4, -1]))
    np.testing.assert_array_equal(found[:2], table[jnp.array([3, 0])])
    assert np.isnan(found[2:]).all()  # no such classes
    for own, stddev in (((), 0.02), ((2.0,), 2.0)):
        wide = embeddings.Classes(200, 50, *own).init(jax.random.key(0), jnp.array([0]))
        np.testing.assert_allclose(wide["params"]["rows"]["embedding"].std(), stddev, rtol=0.05)
