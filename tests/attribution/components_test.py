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


def test_directions_that_are_close_take_more_steps(rng):
    centred = lambda x: x - x.mean(0)
    left, right = (np.linalg.qr(centred(rng.normal(size=(50, 40))))[0] for _ in range(2))
    scales = np.where(np.arange(40) == 0, 1.0, 0.99)
    matrix = left * scales @ right.T
    own = attribution.principal_projections(matrix, 1, num_steps=600)[:, 0]
    expected = left[:, 0] * np.sign(left[np.abs(left[:, 0]).argmax(), 0])
    np.testing.assert_allclose(own, expected, atol=1e-2 * np.abs(expected).max())


def test_as_many_components_as_there_are_hold_all_variance(rng):
    matrix = rng.normal(size=(9, 4)) * [8.0, 4.0, 2.0, 1.0]
    own = np.asarray(attribution.principal_projections(matrix, 4))
    variances = PCA(4, svd_solver="full").fit(matrix).singular_values_ ** 2
    np.testing.assert_allclose(own.T @ own, np.diag(variances), atol=1e-4 * variances[0])


def test_examples_that_are_all_alike_project_to_nothing():
    projections = attribution.principal_projections(np.ones((3, 5)), 2)
    np.testing.assert_array_equal(projections, np.zeros((3, 2)))


def test_a_group_that_acts_together_stands_out(rng):
    matrix = 0.1 * rng.normal(size=(80, 80)).astype(np.float32)
    matrix[np.ix_(range(10), range(10))] += 1.0
    first = np.asarray(attribution.principal_projections(matrix, 1))[:, 0]
    assert set(np.argsort(-first)[:10]) == set(range(10))


def test_bad_values_are_named(rng):
    with pytest.raises(ValueError, match="num_components must be <= 4, got 5"):
        attribution.principal_projections(rng.normal(size=(9, 4)), 5)
