import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from unlearnjax import data as data_lib

SHAPES = ((1, 1), (1, 20), (7, 20), (20, 20), (23, 1), (40, 20), (41, 20), (50, 7))


# A few sizes, since it is compiled for each.
@hypothesis.given(shape=st.sampled_from(SHAPES), seed=st.integers(0, 99))
@hypothesis.settings(deadline=None, max_examples=30)
def test_an_epoch_holds_every_index_once(shape, seed):
    n, batch_size = shape
    indices = np.arange(n) * 3
    order = data_lib.epoch_order(jax.random.key(seed), jnp.asarray(indices), batch_size)
    assert order.shape == (data_lib.steps_per_epoch(n, batch_size), batch_size)
    flat = np.asarray(order).ravel()
    np.testing.assert_array_equal(np.sort(flat[flat >= 0]), indices)
    assert (flat >= 0).sum() == n
    assert set(np.asarray(data_lib.position(flat)).tolist()) == set(indices.tolist())


def test_padding_within_a_subset_is_spread_and_filled_with_its_members():
    subset = jnp.array([4, -1, 7, -1, 9, -1])
    order = np.asarray(data_lib.epoch_order(jax.random.key(0), subset, 4)).ravel()
    assert sorted(order[order >= 0]) == [4, 7, 9]
    assert set(np.asarray(data_lib.position(order))) == {4, 7, 9}
    assert len(set(order[order < 0])) > 1  # not one of them over and over


def test_epochs_are_shuffled_differently_by_different_keys():
    orders = [
        np.asarray(data_lib.epoch_order(jax.random.key(s), jnp.arange(30), 30)) for s in (0, 1)
    ]
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0].ravel(), np.arange(30))


def test_take_gives_padding_weight_zero_and_keeps_example_weights():
    data = {"inputs": jnp.arange(4.0), "weight": jnp.array([1.0, 2.0, 3.0, 4.0])}
    batch = data_lib.take(data, jnp.array([2, -1, 0, -4]))
    np.testing.assert_array_equal(batch["weight"], [3, 0, 1, 0])
    np.testing.assert_array_equal(batch["inputs"], [2, 0, 0, 3])


def test_what_no_device_holds_stays_behind():
    kept = {
        "inputs": np.ones((2, 3), np.float32),
        "flag": np.array([True, False]),
        "small": np.array([1, 255], np.uint8),
        "wide": np.array([0.1, np.nan]),
        "long": np.array([-(2**31), 2**31 - 1]),
        "unsigned": np.array([0, 2**32 - 1], np.uint64),
        "half": np.ones(2, jnp.bfloat16),
        "placed": jnp.ones(2),
        "key": jax.random.split(jax.random.key(0)),
    }
    left = {
        "text": np.array(["a", "b"]),
        "bytes": np.array([b"a", b"b"]),
        "object": np.array([None, 1], object),
        "day": np.array(["2020-01-01", "NaT"], "datetime64[D]"),
    }
    numeric = data_lib.numeric({**kept, **left})
    assert list(numeric) == list(kept)
    for name, value in jax.device_put(numeric).items():  # jax changes nothing more
        assert value.dtype == numeric[name].dtype
        if name not in ("key", "wide"):
            np.testing.assert_array_equal(value, kept[name])
    assert numeric["wide"].dtype == np.float32 and numeric["long"].dtype == np.int32
    np.testing.assert_array_equal(numeric["wide"], np.float32([0.1, np.nan]))
    assert set(data_lib.take({**kept, **left}, jnp.array([1]))) == {*kept, "weight"}
    with jax.enable_x64(True):
        assert data_lib.numeric(kept)["wide"].dtype == np.float64


def test_num_examples_refuses_ragged_data():
    with pytest.raises(ValueError, match="'targets': 2"):
        data_lib.num_examples({"inputs": np.zeros(3), "targets": np.zeros(2)})


@pytest.mark.parametrize("size", [0, -3, 11])
def test_batch_size_out_of_range_names_the_range(size):
    with pytest.raises(ValueError, match=rf"between 1 and the number .* \(10\), got {size}"):
        data_lib.validate_batch_size(size, 10)
