"""What a forget set is to every attributor: a row named twice is one, an unknown one an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import attribution

N, E, C = 12, 4, 2


def linear(rng):
    """Influence whose change is a known linear function of what is removed."""
    effects = jnp.asarray(rng.normal(size=(N, E, C)), jnp.float32)
    change = jax.tree_util.Partial(lambda w, removed: jnp.tensordot(removed, w, 1), effects)
    return attribution.Influence(change, jnp.zeros(N)), np.asarray(effects)


def attributors(rng):
    """Each with a function that gives the answer by NumPy."""
    weight = rng.normal(size=(N, E, C)).astype(np.float32)
    bias = np.zeros((E, C), np.float32)
    influence, effects = linear(rng)
    x, y, z = (rng.normal(size=s).astype(np.float32) for s in ((N, 3), (N, C), (E, 3)))

    def refit(rows):
        def solution(x, y):
            x, y = np.float64(x), np.float64(y)
            return np.linalg.solve(x.T @ x + 0.5 * np.eye(3), x.T @ y)

        kept = np.setdiff1d(np.arange(N), rows)
        return z @ (solution(x[kept], y[kept]) - solution(x, y))

    by_sum = lambda w, sign: lambda rows: sign * w[np.unique(rows)].sum(0)
    return {
        "datamodels": (attribution.Datamodels(weight, bias, bias), by_sum(weight, -1)),
        "trak": (attribution.Trak(weight.transpose(1, 2, 0)), by_sum(weight, -1)),
        "influence": (influence, by_sum(effects, 1)),
        "ridge": (attribution.ridge_influence(x, y, z, gamma=0.5), refit),
    }


NAMES = ("datamodels", "trak", "influence", "ridge")
REQUESTS = ([7, 2, 7, 7, 0, 2], [11], [], list(range(N)))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_named_twice_is_one_and_none_or_all_may_be_named(rng, name):
    attributor, expected = attributors(rng)[name]
    for rows in REQUESTS:
        wanted = expected(np.array(rows, int))
        change = attribution.predict_counterfactual(attributor, rows)
        assert change.shape == (E, C) and change.dtype == jnp.float32
        np.testing.assert_allclose(change, wanted, atol=1e-5)
    for dtype in (np.uint8, np.int64):
        rows = np.array(REQUESTS[0], dtype)
        change = attribution.predict_counterfactual(attributor, rows)
        np.testing.assert_allclose(change, expected(np.array(REQUESTS[0])), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_code_counts_once_and_drops_what_is_out_of_range(rng, name):
    attributor, expected = attributors(rng)[name]
    predict = jax.jit(attribution.predict_counterfactual)
    change = predict(attributor, jnp.array([5, -1, 3, 5, N, 99, 3, -1]))
    np.testing.assert_allclose(change, expected(np.array([3, 5])), atol=1e-5)
    # Row 0 stands in for what is dropped; it may be named, too.
    change = predict(attributor, jnp.array([-1, -3, 0, N, 0, 99, 88, 77]))
    np.testing.assert_allclose(change, expected(np.array([0])), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([3, -1], r"forget must lie in 0..11, got \[-1\]"),
        ([12, 0, 2**40], r"forget must lie in 0..11, got \[12, 1099511627776\]"),
        (np.arange(N) < 3, r"forget must be \[F\] integers.* got bool"),
        ([1.0, 2.0], r"forget must be \[F\] integers.* got float64 \(2,\)"),
        (3, r"forget must be \[F\] integers"),
    ],
)
def test_other_positions_are_refused(rng, name, rows, message):
    attributor, _ = attributors(rng)[name]
    with pytest.raises(ValueError, match=message):
        attribution.predict_counterfactual(attributor, rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_subset_lacks_what_its_mask_lacks(rng, name):
    attributor, expected = attributors(rng)[name]
    masks = np.ones((3, N), np.uint8)
    masks[0, [1, 4]], masks[2] = 0, 0
    predicted = np.asarray(attribution.predict_subsets(attributor, masks))
    own = np.stack([expected(np.flatnonzero(1 - mask)) for mask in masks])
    start = predicted[1] if name == "datamodels" else 0
    np.testing.assert_allclose(predicted - start, own, atol=1e-5)
    again = attribution.predict_subsets(attributor, masks.tolist())
    np.testing.assert_array_equal(again, predicted)
    with pytest.raises(ValueError, match=r"masks must be \[subsets, 12\], got \(3, 11\)"):
        attribution.predict_subsets(attributor, masks[:, 1:])
