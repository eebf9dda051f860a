import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from unlearnjax import selection


def exact(values, size):
    """By sorting: the sum of the clipped values is piecewise linear in mu."""
    values = np.asarray(values, np.float64)
    total = lambda mu: np.clip(values - mu, 0, 1).sum()
    corners = np.sort(np.concatenate([values, values - 1]))
    sums = np.array([total(c) for c in corners])
    last = np.flatnonzero(sums >= size)[-1]
    if last == len(corners) - 1 or sums[last] == size:
        return np.clip(values - corners[last], 0, 1)
    share = (sums[last] - size) / (sums[last] - sums[last + 1])
    return np.clip(values - (corners[last] + share * (corners[last + 1] - corners[last])), 0, 1)


@hypothesis.given(
    hypothesis.extra.numpy.arrays(
        # A few lengths, since it is compiled for each.
        np.float32,
        st.sampled_from((1, 2, 7, 40)),
        elements=st.floats(-5, 5, width=32),
    ),
    st.floats(0, 1),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_the_projection_is_that_of_sorting(values, share):
    size = float(np.float32(share * len(values)))
    projected = np.asarray(selection.project(jnp.asarray(values), size))
    np.testing.assert_allclose(projected.sum(), size, atol=1e-4)
    np.testing.assert_allclose(projected, exact(values, size), atol=1e-5)


def test_the_projection_solves_the_quadratic_program(rng):
    values = rng.normal(size=12)
    with jax.enable_x64(True):
        projected = np.asarray(jax.jit(lambda v: selection.project(v, 4))(jnp.asarray(values)))
    result = scipy.optimize.minimize(
        lambda w: np.sum((w - values) ** 2),
        np.full(12, 4 / 12),
        jac=lambda w: 2 * (w - values),
        bounds=[(0, 1)] * 12,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 4, "jac": lambda w: np.ones(12)},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    np.testing.assert_allclose(projected, result.x, atol=1e-6)
    assert abs(projected.sum() - 4) < 1e-12


def test_an_entry_that_is_just_full_counts_as_full():
    """mu is 4: the first entry less it is exactly 1."""
    projected = selection.project(jnp.array([5.0, 4.5, 4.25]), 1.75)
    np.testing.assert_allclose(projected, [1.0, 0.5, 0.25], atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_rounding_takes_the_largest(size):
    chosen = selection.top(jnp.array([0.2, 0.9, 0.9, 0.0, 0.5]), size)
    assert chosen.sum() == size
    assert set(np.flatnonzero(chosen)) == set([1, 2, 4, 0, 3][:size])
