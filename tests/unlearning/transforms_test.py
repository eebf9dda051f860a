import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearnjax import training
from unlearnjax.unlearning import transforms

PARAMS = {"a": {"kernel": jnp.array([1.0, -2.0, 3.0]), "bias": jnp.array([0.5])}, "b": jnp.ones(2)}
GRADS = {"a": {"kernel": jnp.array([0.1, 5.0, -3.0]), "bias": jnp.array([2.0])}, "b": -jnp.ones(2)}


def steps(tx, params, grads, n=3):
    state = tx.init(params)
    for _ in range(n):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    "tx", [optax.sgd(0.1, momentum=0.9), optax.adamw(0.1, weight_decay=0.5)], ids=["sgd", "adamw"]
)
def test_what_is_masked_out_stays_bit_equal_and_the_rest_moves_as_without(tx):
    mask = {
        "a": {"kernel": jnp.array([1.0, 0.0, 1.0]), "bias": jnp.zeros(())},
        "b": jnp.ones(()),
    }
    result, free = steps(transforms.masked(tx, mask), PARAMS, GRADS), steps(tx, PARAMS, GRADS)
    assert result["a"]["kernel"][1] == PARAMS["a"]["kernel"][1]
    assert result["a"]["bias"] == PARAMS["a"]["bias"]
    np.testing.assert_array_equal(result["b"], free["b"])
    np.testing.assert_array_equal(result["a"]["kernel"][::2], free["a"]["kernel"][::2])


@pytest.mark.parametrize("mask", [{"a": jnp.ones(3)}, {**PARAMS, "b": jnp.ones(5)}])
def test_masks_of_another_structure_or_shape_are_refused(mask):
    with pytest.raises(ValueError, match="mask must have the"):
        transforms.masked(optax.sgd(0.1), mask).init(PARAMS)


def test_saliency_mask_holds_the_share_with_the_largest_gradients(rng):
    gradient = {"x": rng.normal(size=(20, 30)), "y": 0.1 * rng.normal(size=400)}
    mask = transforms.saliency_mask(jax.tree.map(jnp.asarray, gradient), 0.3)
    flat = np.abs(np.concatenate([g.ravel() for g in gradient.values()]))
    chosen = np.concatenate([np.asarray(m).ravel() for m in mask.values()]) > 0
    assert chosen.sum() == 300
    assert flat[chosen].min() > flat[~chosen].max()
    everything = transforms.saliency_mask(gradient, 1.0)
    assert all(bool(m.all()) for m in jax.tree.leaves(everything))
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\], got 0"):
        transforms.saliency_mask(gradient, 0.0)


def test_the_largest_are_at_least_one_and_ties_stay():
    scores = {"a": jnp.array([[3.0, 1.0], [2.0, 0.0]]), "b": jnp.array([2.0, 5.0])}
    chosen = lambda keep: {k: v.tolist() for k, v in transforms.top_share(scores, keep).items()}
    assert chosen(0.0) == chosen(1 / 6) == {"a": [[0, 0], [0, 0]], "b": [0, 1]}
    assert chosen(3 / 6) == {"a": [[1, 0], [1, 0]], "b": [1, 1]}  # two of value 2
    assert chosen(1.0) == chosen(1.2) == {"a": [[1, 1], [1, 1]], "b": [1, 1]}


def test_types_of_gradients_stay(rng):
    """Of several types at once, whatever is computed with."""
    params = {"x": jnp.ones(3, jnp.bfloat16), "y": -jnp.ones(2, jnp.float32)}
    for tx in (
        transforms.add_l1(lambda count: jnp.float32(0.5) * count),
        transforms.project_conflict({"x": jnp.ones(3), "y": jnp.ones(2)}),
        transforms.masked(optax.sgd(0.1), {"x": jnp.ones(()), "y": jnp.zeros(2)}),
        transforms.sharpness_aware(optax.sgd(0.1)),
    ):
        updates, _ = tx.update(params, tx.init(params), params)
        assert jax.tree.map(lambda u: u.dtype, updates) == {"x": jnp.bfloat16, "y": jnp.float32}


def test_layer_mask_matches_whole_names_only():
    params = {"Dense_1": {"kernel": jnp.ones(2)}, "Dense_10": {"kernel": jnp.ones(2)}}
    mask = transforms.layer_mask(params, ["Dense_1"])
    assert mask["Dense_1"]["kernel"] == 1 and mask["Dense_10"]["kernel"] == 0
    with pytest.raises(ValueError, match=r"among \['Dense_1', 'Dense_10'\], got 'Dense_2'"):
        transforms.layer_mask(params, ["Dense_2"])


def test_l1_adds_the_sign_and_follows_its_schedule():
    tx = optax.chain(transforms.add_l1(optax.linear_schedule(1.0, 0.0, 2)), optax.sgd(1.0))
    params, state = jnp.array([5.0, -5.0, 0.0]), None
    state = tx.init(params)
    seen = [params]
    for _ in range(4):
        updates, state = tx.update(jnp.zeros(3), state, seen[-1])
        seen.append(optax.apply_updates(seen[-1], updates))
    np.testing.assert_allclose(seen[1], [4.0, -4.0, 0.0])  # coefficient 1
    np.testing.assert_allclose(seen[2], [3.5, -3.5, 0.0])  # 1/2
    np.testing.assert_allclose(seen[4], [3.5, -3.5, 0.0])  # 0


def test_conflict_projection_is_orthogonal_where_gradients_conflict_only():
    direction = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([-1.0])}
    conflicting = {"x": jnp.array([-3.0, 0.5]), "y": jnp.array([1.0])}
    tx = transforms.project_conflict(direction)
    projected, _ = tx.update(conflicting, tx.init(direction))
    assert float(optax.tree.vdot(projected, direction)) == pytest.approx(0.0, abs=1e-6)
    # Nothing but the component along the direction is gone.
    difference = optax.tree.sub(conflicting, projected)
    ratio = difference["x"][0] / direction["x"][0]
    np.testing.assert_allclose(difference["x"], ratio * direction["x"], rtol=1e-5)
    agreeing = jax.tree.map(jnp.negative, conflicting)
    same, _ = tx.update(agreeing, tx.init(direction))
    np.testing.assert_allclose(same["x"], agreeing["x"])


@pytest.mark.parametrize(("per_leaf", "strength"), [(False, 0.5), (True, 1.0), (True, 0.25)])
def test_conflict_projection_by_leaf_and_in_part_of_what_a_step_hands_over(per_leaf, strength):
    """Written out in NumPy; the second leaf agrees with the direction, the whole conflicts."""
    against = {"x": jnp.array([1.0, 2.0]), "y": jnp.array([-1.0])}
    given = {"x": jnp.array([-3.0, 0.5]), "y": jnp.array([-1.0])}
    project = transforms.project_conflict(per_leaf=per_leaf, strength=strength)
    tx = optax.chain(optax.scale(2.0), project, optax.scale(0.5))
    projected, _ = tx.update(given, tx.init(given), given, against=against)
    wholes = [np.concatenate([t["x"], t["y"]]) for t in (given, against)]
    for name in ("x", "y"):
        g, d = (np.asarray(t[name]) for t in (given, against))
        inner, squared = (g @ d, d @ d) if per_leaf else (np.dot(*wholes), wholes[1] @ wholes[1])
        expected = g - strength * min(inner, 0) / squared * d
        np.testing.assert_allclose(projected[name], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="needs a direction or the extra argument against"):
        project.update(given, project.init(given))
    with pytest.raises(ValueError, match=r"strength must lie in \[0, 1\]"):
        transforms.project_conflict(strength=2.0)


@pytest.mark.parametrize(("options", "radius"), [({}, 0.05), ({"radius": 0.3}, 0.3)])
def test_sharpness_aware_step_is_descent_with_the_gradient_up_the_slope(options, radius):
    """On a quadratic, against the two steps written out."""
    matrix = jnp.array([[3.0, 1.0], [1.0, 2.0]])
    gradient = lambda x: matrix @ x
    tx = transforms.sharpness_aware(optax.sgd(0.1), **options)
    x = jnp.array([1.0, -2.0])
    state, moved = tx.init(x), x
    for _ in range(2):
        updates, state = tx.update(gradient(moved), state, moved)
        moved = optax.apply_updates(moved, updates)
    g = gradient(x)
    expected = x - 0.1 * gradient(x + radius * g / jnp.linalg.norm(g))
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    with pytest.raises(ValueError, match="radius must be > 0"):
        transforms.sharpness_aware(optax.sgd(0.1), radius=0.0)


def test_an_average_is_around_a_mask_never_within():
    params, mask = {"w": jnp.ones(2)}, {"w": jnp.array([1.0, 0.0])}
    within = transforms.masked(training.averaged(optax.sgd(0.5), decay=0.5), mask)
    with pytest.raises(ValueError, match="tx must not be averaged within a mask"):
        within.init(params)
    around = training.averaged(transforms.masked(optax.sgd(1.0), mask), decay=0.5)
    _, state = around.update({"w": jnp.ones(2)}, around.init(params), params)
    assert state.average["w"].tolist() == [0.5, 1.0]


def test_parameters_stay_within_their_box_whatever_the_step():
    tx = optax.chain(optax.sgd(1.0), transforms.stay_within(-0.5, 1.0))
    params = jnp.array([0.0, 0.9, 0.25, -0.5])
    slopes = jnp.array([3.0, -4.0, 0.5, 0.0])
    updates, _ = tx.update(slopes, tx.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates), [-0.5, 1.0, -0.25, -0.5])
    with pytest.raises(ValueError, match="low must be at most high, got 1.0 and 0.0"):
        transforms.stay_within(1.0, 0.0)
