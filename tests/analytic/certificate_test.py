import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import analytic


@pytest.mark.parametrize("form", sorted(analytic.FORMS))
def test_certificates_can_be_checked_by_hand(rng, form):
    with jax.enable_x64(True):
        features, targets = rng.normal(size=(30, 8)), np.eye(3)[rng.integers(0, 3, 30)]
        state = analytic.init(8, 3, 0.5, form=form, dtype=jnp.float64)
        before = analytic.learn(state, features, targets)
        after = analytic.forget(before, features[[4, 2]], targets[[4, 2]])
    record = analytic.certificate(before, after, [4, 2], "request 7")
    assert json.loads(json.dumps(record)) == record
    assert record["request"] == "request 7" and record["form"] == form
    indices = hashlib.sha256(np.array([2, 4], "<i8").tobytes()).hexdigest()
    assert record["removed"] == {"count": 2, "indices": indices}
    content = b"".join(np.asarray(leaf).tobytes("C") for leaf in jax.tree.leaves(after))
    assert record["after"] == hashlib.sha256(content).hexdigest()
    assert record["before"] != record["after"] and record["before"] == analytic.digest(before)
    if form == "inverse":
        assert record["residual"] is None and record["distance_bound"] is None
        return
    a = features.T @ features + 0.5 * np.eye(8)
    for row in (2, 4):
        a -= np.outer(features[row], features[row])
    exact = np.linalg.solve(a, np.delete(features, (2, 4), 0).T @ np.delete(targets, (2, 4), 0))
    weight = np.asarray(after.weight)
    distance = np.linalg.norm(weight - exact) / np.linalg.norm(weight)
    assert record["residual"] < 1e-13 and record["distance_bound"] < 1e-11
    assert distance < record["distance_bound"] + 1e-13


def test_the_bound_holds_for_a_weight_that_is_off(rng):
    with jax.enable_x64(True):
        features, targets = rng.normal(size=(30, 8)), np.eye(3)[rng.integers(0, 3, 30)]
        state = analytic.init(8, 3, 0.5, dtype=jnp.float64)
        state = analytic.learn(state, features, targets)
        off = state._replace(weight=state.weight + 1e-3 * rng.normal(size=(8, 3)))
    record = analytic.certificate(state, off, [], "none")
    given, exact = (np.asarray(s.weight) for s in (off, state))
    distance = np.linalg.norm(given - exact) / np.linalg.norm(given)
    assert 1e-4 < distance < record["distance_bound"]
    a, b = features.T @ features + 0.5 * np.eye(8), features.T @ targets
    error = np.linalg.norm(a @ given - b)
    assert record["residual"] == pytest.approx(error / np.linalg.norm(b), rel=1e-9)
    bound = error / (0.5 * np.linalg.norm(given))
    assert record["distance_bound"] == pytest.approx(bound, rel=1e-9)


def test_indices_count_from_zero_and_once_each():
    blank = analytic.init(2, 1)
    record = analytic.certificate(blank, blank, [3, 0, 3], "twice")
    indices = hashlib.sha256(np.array([0, 3], "<i8").tobytes()).hexdigest()
    assert record["removed"] == {"count": 2, "indices": indices}
    assert record["distance_bound"] is None  # of a weight of zero
    for bad, named in (([4, -1], "-1"), ([0.5], "0.5")):
        with pytest.raises(ValueError, match=f"indices must be integers >= 0, got {named}"):
            analytic.certificate(blank, blank, bad, "bad")
