import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax.types import Request
from unlearnjax.unlearning import ids

KNOWN = np.array([30, -7, 12, 2**31 - 1, -(2**31), 0])


def data(index):
    index = index if hasattr(index, "dtype") else np.asarray(index, np.int64)
    return {"index": index, "inputs": jnp.zeros((len(index), 2))}


def test_ids_are_found_where_they_are(rng):
    known = rng.choice(np.arange(-50, 50), 40, replace=False)
    wanted = np.arange(-55, 55)
    where = {value: place for place, value in enumerate(known.tolist())}
    expected = [where.get(value, -1) for value in wanted.tolist()]
    np.testing.assert_array_equal(jax.jit(ids.find)(known, wanted), expected)
    edges = ids.find(jnp.asarray(KNOWN), jnp.asarray(KNOWN[::-1]))
    np.testing.assert_array_equal(edges, [5, 4, 3, 2, 1, 0])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int64])
def test_the_type_of_ids_does_not_matter(dtype):
    known = ids.of(data(np.array([3, 100, 7], dtype)), "the training data")
    request = Request(data(np.array([7], np.int16)), data(np.array([100, 3], np.int32)))
    gone, position = ids.resolve(known, jnp.ones(3), request)
    assert gone.tolist() == [False, False, True]
    assert position.tolist() == [1, 0, -1]


def test_what_is_unknown_or_forgotten_matches_nothing_inside_of_compiled_code():
    active = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    request = Request(data([5, -7, 12, 12]), data([30, 0]))
    gone, position = jax.jit(ids.resolve)(jnp.asarray(KNOWN), active, request)
    assert gone.tolist() == [False, False, True, False, False, False]
    assert position.tolist() == [0, -1, -1, -1, -1, 1]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([4, 9, 4, 9, 1], "index of the set must be unique, got 4, 9 more than once"),
        ([1, 2**31], "must fit int32, got 2147483648; number the examples, or"),
        ([1, -(2**40)], "must fit int32, got -1099511627776;"),
        (np.array([0.0, 1.0]), "index of the set must be integers, got float64"),
        (np.array([True]), "must be integers, got bool"),
        (np.arange(10) // 2, "got 0, 1, 2, 3, 4 more than once"),
        (np.arange(20) // 2, r"got 0, 1, 2, 3, 4, \.\.\. \(10 in all\) more than once"),
    ],
)
def test_ids_that_do_not_tell_examples_apart_are_refused(index, message):
    with pytest.raises(ValueError, match=message):
        ids.of(data(index), "the set")


def test_wide_ids_hold_where_the_platform_has_them():
    with jax.enable_x64(True):
        assert ids.of(data([1, 2**40]), "the set").tolist() == [1, 2**40]


def test_data_without_ids_is_refused():
    with pytest.raises(ValueError, match=r"the set must have 'index'.* got \['inputs'\]"):
        ids.of({"inputs": jnp.zeros(3)}, "the set")


@pytest.mark.parametrize(
    ("forget", "retain", "message"),
    [
        ([5, 12], [30, 0], "forget set must be of the training data, got 5"),
        ([-7, 12], [30, 0], "forget set must not be forgotten already, got -7"),
        ([12, 12], [30, 0], "forget set must be unique, got 12 more than once"),
        ([12], [30], f"lacks those of index {2**31 - 1}, {-(2**31)}, 0"),
        ([12], [], "the retain set must have at least one example, got none"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(forget, retain, message):
    active = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=message):
        ids.resolve(jnp.asarray(KNOWN), active, Request(data(forget), data(retain)))


def test_rows_that_were_never_trained_on_are_left_out():
    request = Request(data([12]), data([*KNOWN[[5, 4, 3, 1, 0]], 77]))
    _, position = ids.resolve(jnp.asarray(KNOWN), jnp.ones(6), request)
    assert position.tolist() == [4, 3, -1, 2, 1, 0]


def test_what_is_in_both_sets_stays():
    """Examples that a deleted edge belongs to are in the forget set, and go on being trained on."""
    known, active = jnp.arange(4), jnp.array([1.0, 1.0, 1.0, 0.0])
    gone, place = ids.resolve(known, active, Request(data([1, 2]), data([2, 0])))
    assert gone.tolist() == [False, True, False, False] and place.tolist() == [1, -1, 0, -1]
