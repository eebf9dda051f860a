import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

from unlearnjax import attribution


def test_projections_are_scikit_learns(rng):
    scales = 0.7 ** np.arange(20)
    matrix = (rng.normal(size=(60, 20)) * scales @ rng.normal(size=(20, 50)) + 3).astype(np.float32)
    own = np.asarray(jax.jit(lambda m: attribution.principal_projections(m, 3))(matrix))
    expected = PCA(3, svd_solver="full").fit_transform(matrix.astype(np.float64))
    expected *= np.sign(expected[np.abs(expected).argmax(0), range(3)])
    np.testing.assert_allclose(own, expected, atol=1e-2 * np.abs(expected).max())
    listed = attribution.principal_projections(matrix.tolist(), 3)
    np.testing.assert_allclose(listed, own, atol=1e-2 * np.abs(expected).max())


def test_a_group_that_acts_together_stands_out(rng):
    matrix = 0.1 * rng.normal(size=(80, 80)).astype(np.float32)
    matrix[np.ix_(range(10), range(10))] += 1.0
    first = np.asarray(attribution.principal_projections(matrix, 1))[:, 0]
    assert set(np.argsort(-first)[:10]) == set(range(10))


def test_bad_values_are_named(rng):
    with pytest.raises(ValueError, match="num_components must be <= 4, got 5"):
        attribution.principal_projections(rng.normal(size=(9, 4)), 5)
