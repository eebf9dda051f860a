import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import data as data_lib
from unlearnjax.data import pixels


def test_pixels_are_what_is_stored_in_the_range_that_is_given(rng):
    stored = rng.integers(10, 210, (6, 4, 4, 3)).astype(np.float32)
    mean, std = np.array([100.0, 90.0, 50.0]), np.array([50.0, 20.0, 30.0])
    inputs = ((stored - mean) / std).astype(np.float32)
    scale = pixels.pixel_scale(mean, std, low=10.0, high=210.0)
    np.testing.assert_allclose(pixels.to_pixels(inputs, scale), (stored - 10) / 200, atol=1e-6)
    np.testing.assert_allclose(
        pixels.to_inputs(pixels.to_pixels(inputs, scale), scale), inputs, atol=1e-5
    )
    byte = pixels.to_pixels(inputs, pixels.pixel_scale(mean, std))
    np.testing.assert_allclose(byte, stored / 255, atol=1e-6)
    half = pixels.to_pixels(jnp.asarray(inputs, jnp.bfloat16), scale)
    assert half.dtype == pixels.to_inputs(half, scale).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="low must be below high, got 1.0 and 1.0"):
        pixels.pixel_scale(mean, std, low=1.0, high=1.0)


def test_a_change_of_pixels_leaves_the_other_inputs_bit_equal(rng):
    inputs = rng.normal(size=(3, 4, 4, 1)).astype(np.float32)
    scale = pixels.pixel_scale(np.array([33.3]), np.array([78.6]))
    moved = pixels.on_inputs(lambda x: x.at[:, -1, -1].set(1.0), scale)(inputs)
    expected = inputs.copy()
    expected[:, -1, -1] = (255 - 33.3) / 78.6
    np.testing.assert_allclose(moved[:, -1, -1], expected[:, -1, -1], rtol=1e-6)
    rest = np.arange(16).reshape(4, 4, 1) < 15
    np.testing.assert_array_equal(np.where(rest, moved, 0), np.where(rest, inputs, 0))


def test_a_data_sets_own_range_is_that_of_what_it_stores(rng):
    stored = rng.integers(0, 17, (9, 4, 4, 1)).astype(np.float32)
    stored[0, 0, 0], stored[1, 0, 0] = 0, 16
    part = {"inputs": stored, "targets": np.arange(9) % 2}
    dataset = data_lib.standardised(part, part, ("a", "b"))
    scale = pixels.pixel_scale_of(dataset)
    np.testing.assert_allclose(
        pixels.to_pixels(dataset.train["inputs"], scale), stored / 16, atol=1e-6
    )
    flat = dataset._replace(train={"inputs": np.zeros((9, 16)), "targets": part["targets"]})
    with pytest.raises(ValueError, match=r"pixels need images \[N, H, W, C\], got .*\(9, 16\)"):
        pixels.pixel_scale_of(flat)
    grey = {**part, "inputs": np.full((9, 4, 4, 1), 3.0)}
    with pytest.raises(ValueError, match="low must be below high, got 3.0 and 3.0"):
        pixels.pixel_scale_of(dataset._replace(train=grey, mean=0.0, std=1.0))


def test_digits_have_pixels_from_0_to_1(digits):
    whole = data_lib.Dataset(digits, digits, 10, (), np.zeros(1), np.ones(1))
    images = pixels.to_pixels(digits["inputs"], pixels.pixel_scale_of(whole))
    assert float(images.min()) == 0 and float(images.max()) == 1
