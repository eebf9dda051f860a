"""Forgetting is exact: against scikit-learn and NumPy in float64, in every order and block size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from unlearnjax import analytic, parallel

FORMS = sorted(analytic.FORMS)
GAMMA = 0.5


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rows(rng, n, width=24, classes=3):
    features = np.maximum(rng.normal(size=(n, width)), 0)
    return features, np.eye(classes)[rng.integers(0, classes, n)]


def ridge(features, targets, gamma=GAMMA):
    return Ridge(alpha=gamma, fit_intercept=False, solver="cholesky").fit(features, targets).coef_.T


def distance(weight, expected):
    return np.linalg.norm(weight - expected) / np.linalg.norm(expected)


def empty(form, width=24, classes=3, dtype=None):
    return analytic.init(width, classes, GAMMA, form=form, dtype=dtype or jnp.float64)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block_size", [1, 7, 100])
def test_learning_is_scikit_learns_ridge_in_any_block_size(rng, form, block_size):
    features, targets = rows(rng, 60)
    state = analytic.learn(empty(form), features, targets, block_size=block_size)
    assert distance(state.weight, ridge(features, targets)) < 1e-9


def test_gamma_is_a_tenth_unless_it_is_given():
    """One row (1, 1): the weight is 1 / (1 + gamma)."""
    one = np.ones((1, 1))
    for options, gamma in (({}, 0.1), ({"gamma": 3.0}, 3.0)):
        state = analytic.learn(analytic.init(1, 1, dtype=jnp.float64, **options), one, one)
        for weight in (state.weight, analytic.solve(one, one, **options)):
            assert weight.item() == pytest.approx(1 / (1 + gamma), rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.data())
@pytest.mark.parametrize("form", FORMS)
def test_any_stream_ends_where_the_rows_that_are_left_would_have(form, data):
    """Random requests of random blocks; the state is that of what was learned and not forgotten."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    features, targets = rows(rng, 80)
    with jax.enable_x64(True):
        state, left = empty(form), np.zeros(80, bool)
        for _ in range(data.draw(st.integers(1, 8))):
            wants_more = not left.any() or data.draw(st.booleans())
            pool = np.flatnonzero(~left if wants_more else left)
            if not len(pool):
                continue
            # Of few sizes, since it is compiled for each; or all there is.
            size = min(data.draw(st.sampled_from((1, 31, 32, 33, 80))), len(pool))
            block = rng.choice(pool, size, replace=False)
            act = analytic.learn if wants_more else analytic.forget
            state = act(state, features[block], targets[block], block_size=32)
            left[block] = wants_more
        expected = ridge(features[left], targets[left]) if left.any() else np.zeros((24, 3))
        error = np.abs(state.weight - expected).max()
        assert error < 1e-9 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_forgetting_equals_never_having_learned_on_real_digits(digits, form, one_by_one):
    """Expanded real features; forget(learn(A + B), B) is learn(A) to 1e-9."""
    inputs = digits["inputs"][:400]
    projection = analytic.random_projection(jax.random.key(0), 64, 128)
    features = analytic.expand(projection, jnp.asarray(inputs, jnp.float64))
    targets = analytic.one_hot(digits["targets"][:400], 10, jnp.float64)
    state = analytic.learn(empty(form, 128, 10), features, targets)
    blocks = np.arange(300, 400).reshape(-1, 1) if one_by_one else [np.arange(300, 400)]
    for block in blocks:
        state = analytic.forget(state, features[block], targets[block])
    assert distance(state.weight, ridge(features[:300], targets[:300])) < 1e-9


@pytest.mark.parametrize(("form", "bound"), [("gram", 2e-4), ("inverse", 2e-3)])
def test_in_float32_the_error_stays_within_the_stated_bound(digits, form, bound):
    inputs = digits["inputs"][:600]
    projection = analytic.random_projection(jax.random.key(0), 64, 128).astype(jnp.float32)
    features = analytic.expand(projection, jnp.asarray(inputs, jnp.float32))
    targets = analytic.one_hot(digits["targets"][:600], 10)
    state = analytic.init(128, 10, 1.0, form=form, dtype=jnp.float32)
    state = analytic.learn(state, features, targets)
    state = analytic.forget(state, features[500:], targets[500:])
    assert state.weight.dtype == jnp.float32
    expected = ridge(np.float64(features[:500]), np.float64(targets[:500]), 1.0)
    assert distance(state.weight, expected) < bound


@pytest.mark.parametrize("form", FORMS)
def test_forgetting_everything_leaves_nothing(rng, form):
    features, targets = rows(rng, 50)
    state = analytic.learn(empty(form), features, targets)
    state = analytic.forget(state, features[::-1], targets[::-1], block_size=11)
    blank = empty(form)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), state, blank)


@pytest.mark.parametrize("form", FORMS)
def test_new_classes_grow_columns_as_if_they_had_always_been_there(rng, form):
    features, targets = rows(rng, 60, classes=5)
    first = targets.argmax(1) < 3
    state = empty(form, classes=0)
    state = analytic.learn(state, features[first], targets[first][:, :3])
    state = analytic.learn(state, features[~first], targets[~first])
    assert distance(state.weight, ridge(features, targets)) < 1e-9
    # And forgetting one takes rows learned with fewer columns.
    gone = targets[:, 1] == 1
    state = analytic.forget(state, features[gone], targets[gone][:, :3])
    assert distance(state.weight, ridge(features[~gone], targets[~gone])) < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_a_forgotten_class_leaves_a_column_of_zeros(rng, form):
    features, targets = rows(rng, 60)
    state = analytic.learn(empty(form), features, targets)
    state = analytic.forget_class(state, features, targets, 1)
    kept = targets[:, 1] == 0
    np.testing.assert_array_equal(state.weight[:, 1], 0)
    assert distance(state.weight, ridge(features[kept], targets[kept])) < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_weights_repeat_rows_and_zeros_are_padding(rng, form):
    features, targets = rows(rng, 30)
    weights = rng.integers(0, 4, 30)
    state = analytic.learn(empty(form), features, targets, weights)
    repeated = np.repeat(np.arange(30), weights)
    assert distance(state.weight, ridge(features[repeated], targets[repeated])) < 1e-9
    state = analytic.forget(state, features, targets, weights * (np.arange(30) < 10))
    rest = repeated[repeated >= 10]
    assert distance(state.weight, ridge(features[rest], targets[rest])) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(("form", "bound"), [("gram", 1e-10), ("inverse", 1e-6)])
def test_ten_thousand_alternating_requests_do_not_drift(digits, form, bound):
    """One program: a random example is forgotten or, if it is gone, learned again."""
    projection = analytic.random_projection(jax.random.key(0), 64, 64).astype(jnp.float64)
    features = analytic.expand(projection, jnp.asarray(digits["inputs"][:500], jnp.float64))
    targets = analytic.one_hot(digits["targets"][:500], 10, jnp.float64)
    state = analytic.learn(empty(form, 64, 10), features, targets)
    order = np.random.default_rng(0).integers(0, 500, 10_000)

    def request(carry, i):
        state, left = carry
        h, y = features[i][None], targets[i][None]
        forgotten, possible = analytic.try_forget(state, h, y)
        learned = analytic.learn(state, h, y)
        state = jax.tree.map(lambda out, new: jnp.where(left[i], out, new), forgotten, learned)
        return (state, left.at[i].set(~left[i])), possible | ~left[i]

    run = jax.jit(lambda carry: jax.lax.scan(request, carry, jnp.asarray(order)))
    (state, left), possible = run((state, jnp.ones(500, bool)))
    assert bool(possible.all())
    left = np.asarray(left)
    assert left.tolist() == (np.bincount(order, minlength=500) % 2 == 0).tolist()
    expected = ridge(np.asarray(features)[left], np.asarray(targets)[left])
    assert distance(state.weight, expected) < bound


@pytest.mark.parametrize("form", FORMS)
def test_leave_one_out_residuals_are_those_of_refitting(rng, form):
    features, targets = rows(rng, 40)
    state = analytic.learn(empty(form), features, targets)
    fast = analytic.leave_one_out(state, features, targets)
    for i in (0, 17, 39):
        rest = np.arange(40) != i
        error = targets[i] - features[i] @ ridge(features[rest], targets[rest])
        np.testing.assert_allclose(fast[i], error, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_it_maps_over_independent_heads_and_jits(rng, form):
    blocks = [rows(rng, 30) for _ in range(3)]
    features, targets = (np.stack(x) for x in zip(*blocks, strict=True))
    states = jax.vmap(lambda h, y: analytic.learn(empty(form), h, y))(features, targets)
    forget = jax.jit(jax.vmap(analytic.try_forget))
    states, possible = forget(states, features[:, :10], targets[:, :10])
    assert possible.all()
    for i, (h, y) in enumerate(blocks):
        assert distance(states.weight[i], ridge(h[10:], y[10:])) < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_buffers_can_be_donated(rng, form):
    features, targets = rows(rng, 40)
    state = analytic.learn(empty(form), features, targets)
    expected, _ = analytic.try_forget(state, features[:9], targets[:9])
    forget = jax.jit(analytic.try_forget, donate_argnums=0)
    donated, possible = forget(state, features[:9], targets[:9])
    assert possible and state.weight.is_deleted()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), donated, expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_state_sharded_over_devices_gives_the_same(rng, form):
    features, targets = rows(rng, 50)
    mesh = parallel.mesh(jax.devices()[:4])
    place = lambda x: parallel.shard(x, mesh) if x.ndim == 2 else parallel.replicate(x, mesh)
    state = jax.tree.map(place, empty(form))
    state = analytic.learn(state, features, targets)
    state, possible = analytic.try_forget(state, features[30:], targets[30:])
    assert bool(possible)
    assert distance(np.asarray(state.weight), ridge(features[:30], targets[:30])) < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_rows_never_learned_or_forgotten_twice_are_refused(rng, form):
    features, targets = rows(rng, 10)  # fewer rows than features: every row is told apart
    state = analytic.learn(empty(form), features, targets)
    before = jax.tree.map(np.array, state)
    strange = rows(rng, 2)
    with pytest.raises(ValueError, match="must have been learned and not been forgotten yet"):
        analytic.forget(state, *strange)
    without = analytic.forget(state, features[:1], targets[:1])
    with pytest.raises(ValueError, match="must have been learned"):
        analytic.forget(without, features[:1], targets[:1])
    unchanged, possible = jax.jit(analytic.try_forget)(state, *strange)
    assert not possible
    for other in (state, unchanged):
        jax.tree.map(np.testing.assert_array_equal, other, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: analytic.learn(s, np.ones((2, 23)), np.ones((2, 3))),
            r"features must be \[n, 24\]",
        ),
        (lambda s: analytic.learn(s, np.ones((2, 24)), np.ones((3, 3))), "targets must have the 2"),
        (lambda s: analytic.learn(s, np.ones((2, 24)), np.ones(2)), "targets must have two axes"),
        (lambda s: analytic.forget(s, np.ones((2, 24)), np.ones((2, 4))), "at most the state's 3"),
        (
            lambda s: analytic.learn(s, np.full((2, 24), np.nan), np.ones((2, 3))),
            "features must be finite",
        ),
        (
            lambda s: analytic.learn(s, np.ones((2, 24)), np.ones((2, 3)), np.ones(3)),
            r"weights must be \[2\]",
        ),
        (lambda s: analytic.init(24, 3, 0.0), "gamma must be > 0, got 0.0"),
        (lambda s: analytic.init(0, 3), "num_features must be >= 1"),
        (lambda s: analytic.init(24, 3, form="cholesky"), "form must be one of"),
    ],
)
def test_bad_input_is_named_and_leaves_the_state(form, call, message):
    state = empty(form)
    with pytest.raises(ValueError, match=message):
        call(state)
    jax.tree.map(np.testing.assert_array_equal, state, empty(form))


def test_the_residual_certifies_a_deletion(rng):
    features, targets = rows(rng, 60)
    state = analytic.learn(empty("gram"), features, targets)
    state = analytic.forget(state, features[50:], targets[50:])
    assert analytic.residual(state) < 1e-13
    off = state._replace(weight=state.weight * 1.01)
    assert float(analytic.residual(off)) == pytest.approx(0.01)
