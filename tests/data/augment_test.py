import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft, ndimage

from unlearnjax import data as data_lib

IMAGES = jnp.arange(16 * 6 * 5 * 2, dtype=jnp.float32).reshape(16, 6, 5, 2)


def test_every_result_is_a_crop_of_the_reflected_image_or_its_mirror():
    keys = jax.random.split(jax.random.key(3), len(IMAGES))
    crop = lambda key, image: data_lib.pad_crop_flip(key, {"inputs": image}, padding=2)
    result = jax.vmap(crop)(keys, IMAGES)["inputs"]
    assert result.shape == IMAGES.shape and result.dtype == IMAGES.dtype
    mirrored = 0
    for image, out in zip(np.asarray(IMAGES), np.asarray(result), strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        crops = [padded[i : i + 6, j : j + 5] for i in range(5) for j in range(5)]
        straight = any(np.array_equal(out, c) for c in crops)
        flipped = any(np.array_equal(out, c[:, ::-1]) for c in crops)
        assert straight or flipped
        mirrored += flipped and not straight
    assert mirrored > 0


def test_jit_gives_the_same_and_nothing_else_changes():
    example = {"inputs": IMAGES[0], "targets": jnp.array(7)}
    eager = data_lib.pad_crop_flip(jax.random.key(0), example)
    jitted = jax.jit(data_lib.pad_crop_flip)(jax.random.key(0), example)
    np.testing.assert_array_equal(eager["inputs"], jitted["inputs"])
    assert eager["targets"] is example["targets"]


def test_no_padding_and_no_flip_is_the_identity():
    out = data_lib.pad_crop_flip(jax.random.key(0), {"inputs": IMAGES[0]}, padding=0, flip=False)
    np.testing.assert_array_equal(out["inputs"], IMAGES[0])


def test_flat_inputs_are_refused():
    with pytest.raises(ValueError, match=r"must be \[H, W, C\] .* shape \[4\]"):
        data_lib.pad_crop_flip(jax.random.key(0), {"inputs": jnp.zeros(4)})


def sharpened(image, **options):
    example = {"inputs": jnp.asarray(image, jnp.float32), "targets": 3}
    result = data_lib.sharpen(jax.random.key(2), example, **options)
    assert result["targets"] == 3
    return np.asarray(result["inputs"])


def test_sharpening_is_by_a_kernel_of_five_weights_whose_sum_is_1():
    image = np.random.default_rng(0).uniform(0.4, 0.6, size=(6, 5, 2))
    side = (2.5 - 1) / 4
    kernel = np.array([[0, -side, 0], [-side, 2.5, -side], [0, -side, 0]])
    expected = np.stack(
        [ndimage.correlate(image[..., c], kernel, mode="nearest") for c in range(2)], axis=-1
    )
    np.testing.assert_allclose(sharpened(image, deviation=0.0, keep=1.0), expected, rtol=1e-5)
    flat = np.full((6, 5, 1), 0.3)
    np.testing.assert_allclose(sharpened(flat, deviation=0.0, keep=0.3), flat, rtol=1e-5)
    edges = sharpened(np.eye(6)[..., None], deviation=0.0, keep=1.0)
    assert edges.min() == 0 and edges.max() == 1


def test_sharpening_draws_each_weight():
    """Of a single bright pixel what is left is the kernel, the other way round."""
    image = np.full((5, 5, 1), 0.4)
    image[2, 2] = 0.5
    draw = lambda key: data_lib.sharpen(
        key, {"inputs": jnp.asarray(image, jnp.float32)}, centre=1.5, deviation=0.1, keep=1.0
    )["inputs"]
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = np.asarray(jax.vmap(draw)(keys))[..., 0]
    # What a flat image becomes, at a corner, is taken off.
    change = (drawn - drawn[:, :1, :1]) * 10
    middle, *sides = (change[:, i, j] for i, j in ((2, 2), (1, 2), (2, 1), (2, 3), (3, 2)))
    np.testing.assert_allclose(middle.mean(), 1.5, atol=0.01)
    np.testing.assert_allclose(middle.std(), 0.1, atol=0.01)
    sides = [side + (middle - 1) / 4 for side in sides]  # around what the middle asks for
    for side in sides:
        np.testing.assert_allclose(side.mean(), 0, atol=0.01)
        np.testing.assert_allclose(side.std(), 0.1, atol=0.01)
    assert np.abs(np.corrcoef([middle, *sides]) - np.eye(5)).max() < 0.1


def test_of_frequencies_low_ones_stay():
    image = np.random.default_rng(0).uniform(0.3, 0.7, size=(6, 5, 2))
    actual = sharpened(image, centre=1.0, deviation=0.0, keep=0.5)
    frequencies = fft.dctn(image, axes=(0, 1), norm="ortho")
    frequencies[3:] = 0  # of 6 rows
    frequencies[:, 2:] = 0  # of 5 columns
    expected = fft.idctn(frequencies, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    least = sharpened(image, centre=1.0, deviation=0.0, keep=0.01)
    np.testing.assert_allclose(least, np.broadcast_to(image.mean((0, 1)), image.shape), atol=1e-5)


def test_bad_sharpening_is_named():
    for options, message in (
        ({"deviation": -0.1}, "deviation must be >= 0"),
        ({"keep": 0.0}, r"keep must lie in \(0, 1\]"),
        ({"centre": np.inf}, "centre must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            sharpened(np.ones((4, 4, 1)), **options)
    with pytest.raises(ValueError, match=r"inputs must be \[H, W, C\] of an example"):
        sharpened(np.ones((4, 4)))
