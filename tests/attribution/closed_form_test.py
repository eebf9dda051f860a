import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from unlearnjax import attribution


@pytest.mark.parametrize("scale", [1e-3, 1.0, 255.0, 1e4])
@pytest.mark.parametrize("size", [10, 60])
def test_the_change_is_that_of_refitting_at_every_scale_in_float32(rng, scale, size):
    """With fewer rows than the 24 features, too; nothing is enabled by the caller."""
    features = (scale * np.maximum(rng.normal(size=(size, 24)), 0)).astype(np.float32)
    targets = rng.normal(size=(size, 2)).astype(np.float32)
    # Where forgetting acts on them, not only between the training rows.
    evaluation = (rng.normal(size=(9, 24)) * scale).astype(np.float32)
    exact = attribution.ridge_influence(features, targets, evaluation, gamma=0.5)
    change = attribution.predict_counterfactual(exact, [3, 4, 7])
    assert change.dtype == jnp.float32
    kept = np.setdiff1d(np.arange(size), [3, 4, 7])
    fits = [
        Ridge(0.5, fit_intercept=False, solver="svd").fit(np.float64(features[i]), targets[i])
        for i in (range(size), kept)
    ]
    expected = fits[1].predict(np.float64(evaluation)) - fits[0].predict(np.float64(evaluation))
    np.testing.assert_allclose(change, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_raw_pixels_and_lists_are_features(rng):
    pixels = rng.integers(0, 256, (30, 8)).astype(np.uint8)
    targets = np.eye(2, dtype=bool)[rng.integers(0, 2, 30)]
    change = attribution.predict_counterfactual(
        attribution.ridge_influence(pixels.tolist(), targets.tolist(), pixels[:3], gamma=1.0), [4]
    )
    kept = np.delete(np.arange(30), 4)
    x, y = np.float64(pixels), np.float64(targets)
    fits = [
        Ridge(1.0, fit_intercept=False, solver="svd").fit(x[i], y[i]).predict(x[:3])
        for i in (range(30), kept)
    ]
    np.testing.assert_allclose(change, fits[1] - fits[0], atol=1e-6)
    assert change.dtype == jnp.float32
    half = attribution.ridge_influence(x.astype(np.float16), y, x[:3], gamma=1.0)
    assert attribution.predict_counterfactual(half, [4]).dtype == jnp.float16


def test_gamma_is_a_tenth_unless_it_is_given():
    """Two rows (1, 1): the prediction at 1 is 2 / (2 + gamma), and without one 1 / (1 + gamma)."""
    ones = np.ones((2, 1), np.float32)
    for options, gamma in (({}, 0.1), ({"gamma": 3.0}, 3.0)):
        exact = attribution.ridge_influence(ones, ones, ones[:1], **options)
        change = attribution.predict_counterfactual(exact, [0])
        assert float(change[0, 0]) == pytest.approx(1 / (1 + gamma) - 2 / (2 + gamma), rel=1e-5)


def test_what_rounding_hides_is_an_error_and_nan_when_compiled(rng):
    features, targets = rng.normal(size=(5, 9)).astype(np.float32), np.ones((5, 1), np.float32)
    exact = attribution.ridge_influence(features, targets, features, gamma=0.1)
    # As if it had learned rows next to which gamma is nothing.
    gram = np.asarray(exact.state.gram) + 1e14
    broken = exact._replace(state=exact.state._replace(gram=gram))
    with pytest.raises(ValueError, match="must"):
        attribution.predict_counterfactual(broken, [1])
    change = jax.jit(attribution.predict_counterfactual)(broken, jnp.array([1]))
    assert np.isnan(change).all()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((5, 3), (5,), (2, 3)), "targets must have two axes"),
        (((5, 3), (5, 1), (2, 4)), r"evaluation must be \[n, 3\], got \(2, 4\)"),
        (((5, 3), (4, 1), (2, 3)), "targets must have the 5 rows"),
    ],
)
def test_bad_shapes_are_named(shapes, message):
    with pytest.raises(ValueError, match=message):
        attribution.ridge_influence(*(np.ones(s, np.float32) for s in shapes))
