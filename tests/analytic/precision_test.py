"""Whatever the scale and the type of the features, float32 heads are right or refused.

Nothing here enables float64: that is what users have.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from unlearnjax import analytic
from unlearnjax.analytic import precision

FORMS = sorted(analytic.FORMS)
WIDTH, GAMMA = 24, 0.5


def rows(rng, n, scale=1.0, classes=3):
    features = scale * np.maximum(rng.normal(size=(n, WIDTH)), 0)
    return features.astype(np.float32), np.eye(classes)[rng.integers(0, classes, n)]


def ridge(features, targets, gamma=GAMMA):
    """By singular values, which rows next to a small gamma do not disturb."""
    fit = Ridge(alpha=gamma, fit_intercept=False, solver="svd")
    return fit.fit(np.float64(features), np.float64(targets)).coef_.T


def distance(weight, expected):
    return np.linalg.norm(weight - expected) / np.linalg.norm(expected)


def learned(form, *blocks, dtype=jnp.float32):
    state = analytic.init(WIDTH, blocks[0][1].shape[1], GAMMA, form=form, dtype=dtype)
    for block in blocks:
        state = analytic.learn(state, *block)
    return state


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 255.0, 1e4])
@pytest.mark.parametrize("size", [10, 60])
def test_a_head_is_right_at_every_scale_or_says_that_it_cannot_be(rng, form, scale, size):
    """With fewer rows than features, too, where gamma decides."""
    features, targets = rows(rng, size, scale)
    state = learned(form, (features[:6], targets[:6]), (features[6:], targets[6:]))
    assert state.weight.dtype == jnp.float32
    assert distance(state.weight, ridge(features, targets)) < 2e-5
    gone = features[:4], targets[:4]
    answers = form == "gram" or scale <= 1 or (size > WIDTH and scale <= 255)
    kept, possible = analytic.try_forget(state, *gone)
    assert possible or not answers
    if not possible:
        with pytest.raises(ValueError, match="gamma must be larger, or the features smaller"):
            analytic.forget(state, *gone)
        jax.tree.map(np.testing.assert_array_equal, kept, state)
        assert np.isnan(jax.jit(analytic.forget)(state, *gone).weight).all()
        return
    left = analytic.forget(state, *gone)
    bound = 2e-5 if answers else precision.TOLERANCE
    assert distance(left.weight, ridge(features[4:], targets[4:])) < bound
    unchanged, possible = analytic.try_forget(left, *gone)
    # A second time: what is left would be no sum of squares, unless other rows span them.
    if size < WIDTH and scale >= 1:
        assert not possible
        with pytest.raises(ValueError, match="must have been learned and not been forgotten"):
            analytic.forget(left, *gone)


@pytest.mark.parametrize("form", FORMS)
def test_everything_can_be_forgotten_and_nothing_accumulates(rng, form):
    """A weight that is rounded to float32 on the way would leave 1e-8 of itself behind."""
    features, targets = rows(rng, 30)
    state = learned(form, (features, targets))
    for i in range(0, 30, 10):
        state = analytic.forget(state, features[i : i + 10], targets[i : i + 10])
    assert np.abs(state.weight).max() < 1e-11
    assert (
        distance(analytic.learn(state, features, targets).weight, ridge(features, targets)) < 1e-6
    )


@pytest.mark.parametrize("form", FORMS)
def test_gamma_that_is_nothing_beside_the_rows_is_refused(rng, form):
    block = rows(rng, 10, 1e8)
    state = analytic.init(WIDTH, 3, GAMMA, form=form)
    if form == "inverse":  # It takes a first block in, and then has lost gamma.
        state = analytic.learn(state, *block)
        assert distance(state.weight, ridge(*block)) < 1e-5
    with pytest.raises(ValueError, match="float64 rounds away beside them what decides the weight"):
        analytic.learn(state, *block)
    state = jax.jit(analytic.learn)(state, *block)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(state))


def test_many_independent_rows_have_no_upper_limit_in_the_gram_form(rng):
    features, targets = rows(rng, 60, 1e8)
    state = learned("gram", (features, targets))
    state = analytic.forget(state, features[:20], targets[:20])
    assert distance(state.weight, ridge(features[20:], targets[20:])) < 1e-5


@pytest.mark.parametrize(("squared_norm", "possible"), [(0.005, True), (0.015, False)])
def test_what_is_left_may_fall_a_hundredth_of_gamma_below_it(squared_norm, possible):
    """A row that was never learned takes its square from gamma, which nothing is added to."""
    state = analytic.init(2, 1, 8.0)
    row = np.array([[np.sqrt(8.0 * squared_norm), 0.0]])
    assert bool(analytic.try_forget(state, row, np.ones((1, 1)))[1]) == possible


def test_gamma_is_told_beside_rows_up_to_the_stated_ratio():
    """At 1e11 rounding leaves 2e-5 of it, which the tolerance allows; at 1e13 nothing."""
    state = analytic.init(2, 1, 1.0)
    row, target = np.array([[10.0**5.5, 0.0]]), np.ones((1, 1))
    state = analytic.forget(analytic.learn(state, row, target), row, target)
    np.testing.assert_allclose(state.gram, np.eye(2), atol=1e-4)
    with pytest.raises(ValueError, match="float64 rounds away"):
        state = analytic.learn(state, 10 * row, target)
        analytic.forget(state, 10 * row, target)


def test_the_inverse_form_refuses_by_the_whole_trace():
    """n rows that are equal, q = |h|^2 / gamma = 1e6: `q trace K` is `n q (1 + q)`, and 2e-16 of it
    2e-4 for one row, 4e-3 for 20. The pivots alone would say 2e-4 again."""
    for n, possible in ((1, True), (20, False)):
        block = np.full((n, 1), 1e3), np.ones((n, 1))
        state = analytic.learn(analytic.init(1, 1, 1.0, form="inverse"), *block)
        assert bool(analytic.try_forget(state, *block)[1]) == possible


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float16, jnp.bfloat16, list])
def test_rows_of_any_type_count_as_the_numbers_they_are(rng, form, dtype):
    values = rng.integers(0, 2 if dtype is bool else 200, (40, WIDTH))
    targets = np.eye(3, dtype=np.int32)[rng.integers(0, 3, 40)]
    given = values.tolist() if dtype is list else jnp.asarray(values).astype(dtype)
    weights = targets[:, 0] + 1
    state = analytic.learn(
        analytic.init(WIDTH, 3, 10.0, form=form), given, targets.tolist(), weights.tolist()
    )
    repeated = np.repeat(np.arange(40), weights)
    exact = np.float64(values) if dtype is list else np.float64(given)
    expected = ridge(exact[repeated], targets[repeated], 10.0)
    assert distance(state.weight, expected) < 1e-6
    predicted = analytic.predict(state, given)
    assert predicted.dtype == jnp.float32
    np.testing.assert_allclose(predicted, exact @ expected, rtol=0, atol=1e-4)
    solved = analytic.solve(given, targets.astype(bool), 10.0, weights)
    assert distance(np.float64(solved), expected) < {2: 1e-2}.get(solved.dtype.itemsize, 1e-6)
    floats = (np.float16, jnp.bfloat16)
    assert solved.dtype == (dtype if dtype in floats else jnp.float32)


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_one_row_and_one_class(rng, form):
    features, targets = rows(rng, 1, classes=1)
    state = learned(form, (features, targets), (features[:0], targets[:0]))
    assert distance(state.weight, ridge(features, targets).reshape(WIDTH, 1)) < 1e-6
    same = analytic.forget(state, features[:0], targets[:0])
    np.testing.assert_allclose(same.weight, state.weight, rtol=1e-6)
    assert np.abs(analytic.forget_class(state, features, targets, 0).weight).max() == 0


@pytest.mark.parametrize("form", FORMS)
def test_compiled_and_mapped_heads_need_nothing_enabled(rng, form):
    blocks = [rows(rng, 12, 50.0) for _ in range(2)]
    features, targets = (np.stack(x).astype(np.float32) for x in zip(*blocks, strict=True))
    empty = analytic.init(WIDTH, 3, 100.0, form=form)

    @jax.jit
    @jax.vmap
    def run(h, y):
        state = jax.lax.scan(
            lambda state, row: (analytic.learn(state, row[0][None], row[1][None]), None),
            empty,
            (h, y),
        )[0]
        return analytic.forget(state, h[:5], y[:5])

    states = run(features, targets)
    for weight, (h, y) in zip(states.weight, blocks, strict=True):
        assert distance(weight, ridge(h[5:], y[5:], 100.0)) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_leave_one_out_is_right_or_refused(rng, form):
    features, targets = rows(rng, 12)
    fast = analytic.leave_one_out(learned(form, (features, targets)), features, targets)
    assert fast.dtype == jnp.float32
    for i in (0, 11):
        rest = np.arange(12) != i
        error = targets[i] - np.float64(features[i]) @ ridge(features[rest], targets[rest])
        np.testing.assert_allclose(fast[i], error, atol=1e-5)
    state = learned(form, (1e5 * features, targets))
    with pytest.raises(ValueError, match="what is left without a row"):
        analytic.leave_one_out(state, 1e5 * features, targets)
    assert np.isnan(jax.jit(analytic.leave_one_out)(state, 1e5 * features, targets)).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("class_id", [3, 99, -1, 1.5])
def test_a_class_out_of_range_is_refused_and_forgets_nothing_when_compiled(rng, form, class_id):
    features, targets = rows(rng, 30)
    state = learned(form, (features, targets))
    with pytest.raises(ValueError, match=rf"class_id must lie in 0..2, got {class_id}"):
        analytic.forget_class(state, features, targets, class_id)
    if class_id == 1.5:
        return
    same = jax.jit(analytic.forget_class)(state, features, targets, class_id)
    np.testing.assert_allclose(same.weight, state.weight, rtol=1e-5, atol=1e-7)
    gone = analytic.forget_class(state, features, targets > 0, jnp.int32(2))
    kept = targets[:, 2] == 0
    np.testing.assert_array_equal(gone.weight[:, 2], 0)
    assert distance(gone.weight, ridge(features[kept], targets[kept])) < 1e-6
    # It stays zero when another request follows.
    after = analytic.forget(gone, features[kept][:1], targets[kept][:1])
    assert np.abs(after.weight[:, 2]).max() < 1e-11


@pytest.mark.parametrize("act", [analytic.learn, analytic.forget, analytic.try_forget])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": [1.0, -0.5]}, "weights must be >= 0, got -0.5"),
        ({"weights": [1.0, np.nan]}, "weights must be finite"),
        ({"targets": np.full((2, 3), np.inf)}, "targets must be finite"),
        ({"features": np.ones((2, WIDTH)) * 1j}, "features must be real, got complex"),
    ],
)
def test_bad_rows_are_named(rng, act, change, message):
    state = learned("gram", rows(rng, 9))
    given = {"features": np.ones((2, WIDTH)), "targets": np.ones((2, 3)), **change}
    with pytest.raises(ValueError, match=message):
        act(state, **given)


def test_other_bad_arguments_are_named(rng):
    features, targets = rows(rng, 9)
    with pytest.raises(ValueError, match="dtype must be floating, got int32"):
        analytic.init(3, 2, dtype=jnp.int32)
    with pytest.raises(ValueError, match="features and targets must have two axes"):
        analytic.solve(features, targets[:, 0])
    with pytest.raises(ValueError, match="targets must be one-hot"):
        analytic.forget_class(learned("gram", (features, targets)), features, targets / 2, 1)


def test_float64_is_a_scope():
    assert precision.float64(lambda: jnp.zeros(1, jnp.float64).dtype)() == jnp.float64
    assert jnp.ones(1).dtype == jnp.float32
    assert precision.floating([1, 2]) == jnp.float32
    assert precision.floating(jnp.zeros(1, jnp.float16)) == jnp.float16
