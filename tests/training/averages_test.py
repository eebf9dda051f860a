import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import training


def walk(tx, params, num_steps=11):
    """All parameters on the way, and the state at its end."""
    state, seen = tx.init(params), [params]
    for number in range(num_steps):
        slope = jax.tree.map(lambda p, n=number: (jnp.sin(p) + 0.1 * n).astype(p.dtype), params)
        updates, state = tx.update(slope, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen, state


def deployed(params, state):
    return training.deploy(training.TrainState(11, {"params": params, "other": 3}, state))


PARAMS = {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array(3.0)}}


@pytest.mark.parametrize(("decay", "every"), [(0.9, 1), (0.5, 3), (0.0, 1), (1.0, 1)])
def test_exponential_averages_are_numpys(decay, every):
    seen, state = walk(training.averaged(optax.adam(0.3), decay=decay, every=every), PARAMS)
    for path in (lambda t: t["a"], lambda t: t["b"]["c"]):
        expected = np.asarray(path(seen[0]), np.float64)
        for number, params in enumerate(seen[1:], 1):
            if number % every == 0:
                expected = decay * expected + (1 - decay) * np.asarray(path(params), np.float64)
        actual = deployed(seen[-1], state)
        np.testing.assert_allclose(path(actual["params"]), expected, rtol=1e-6, atol=1e-6)
        assert actual["other"] == 3


@pytest.mark.parametrize(
    ("start", "every", "counted"),
    [
        (0, 1, range(12)),  # the initial parameters are those after update number 0
        (1, 1, range(1, 12)),
        (5, 1, range(5, 12)),
        (4, 3, (4, 7, 10)),
        (0, 4, (0, 4, 8)),
        (11, 2, (11,)),
        (12, 1, (11,)),  # not there yet: the parameters themselves
    ],
)
def test_uniform_averages_are_means_of_those_that_count(start, every, counted):
    seen, state = walk(training.averaged(optax.sgd(0.3), start=start, every=every), PARAMS)
    expected = np.mean([np.asarray(seen[n]["a"], np.float64) for n in counted], axis=0)
    actual = deployed(seen[-1], state)["params"]["a"]
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_what_is_averaged_moves_as_without_and_keeps_its_types():
    params = {"a": jnp.array([1.0, -2.0], jnp.bfloat16), "b": jnp.array(0.5)}
    plain, _ = walk(optax.adam(0.1), params)
    seen, state = walk(training.averaged(optax.adam(0.1), decay=0.99), params)
    problems.assert_trees_equal(seen[-1], plain[-1])
    result = deployed(seen[-1], state)["params"]
    assert result["a"].dtype == jnp.bfloat16 and result["b"].dtype == jnp.float32
    # A hundredth of a change is below the digits of the type, but is not lost.
    expected = np.asarray(params["a"], np.float64)
    for moved in seen[1:]:
        expected = 0.99 * expected + 0.01 * np.asarray(moved["a"], np.float64)
    np.testing.assert_allclose(state.average["a"], expected, rtol=1e-5)
    frozen = training.averaged(optax.set_to_zero(), decay=0.5)
    _, state = frozen.update(jnp.zeros(2, int), frozen.init(jnp.arange(2)), jnp.arange(2, 4))
    assert state.average.tolist() == [2, 3]  # integers are not averaged


def test_extra_arguments_reach_the_averaged_transformation():
    scaled = lambda u, s, p=None, *, factor, **_: (factor * u, s)
    inner = optax.GradientTransformationExtraArgs(lambda p: (), scaled)
    tx = training.averaged(inner, decay=0.5)
    updates, _ = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), jnp.ones(1), factor=3.0)
    assert updates.tolist() == [3.0]


def test_deployed_is_the_average_of_the_outermost_alone():
    params = {"a": jnp.ones(1)}
    inside = optax.chain(training.averaged(optax.sgd(0.1), decay=0.5), optax.scale(2.0))
    with pytest.raises(ValueError, match="averaged must be around all other .* within tuple"):
        deployed(params, inside.init(params))
    assert deployed(params, optax.adam(0.1).init(params)) == {"params": params, "other": 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of decay and start must be given, got None and None"),
        ({"decay": 0.5, "start": 3}, "one of decay and start must be given"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\]"),
        ({"start": -1}, "start must be >= 0"),
        ({"start": 2.5}, "start must be a whole number, got 2.5"),
        ({"start": True}, "start must be a whole number, got True"),
        ({"start": 0, "every": 1.5}, "every must be a whole number, got 1.5"),
        ({"decay": 0.5, "every": "2"}, "every must be a whole number, got '2'"),
        ({"decay": 0.5, "every": 0}, "every must be >= 1"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        training.averaged(optax.sgd(0.1), **options)
    tx = training.averaged(optax.sgd(0.1), decay=0.5)
    with pytest.raises(ValueError, match="averaged needs the parameters, got params=None"):
        tx.update(jnp.ones(1), tx.init(jnp.ones(1)))


@pytest.mark.parametrize("whole", [int, np.int64, jnp.int32])
def test_whole_numbers_of_any_kind_are_taken(whole):
    tx = training.averaged(optax.sgd(1.0), start=whole(1), every=whole(2))
    params, state = jnp.zeros(()), tx.init(jnp.zeros(()))
    for _ in range(3):  # to 1, 2, 3; the first and the third count
        updates, state = tx.update(jnp.array(-1.0), state, params)
        params = optax.apply_updates(params, updates)
    assert (float(params), float(state.average)) == (3.0, 2.0)
