import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from unlearnjax import protection

KEY = jax.random.key(0)


def images(number=6, side=9, channels=3):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.uniform(size=(number, side, side + 1, channels)), jnp.float32)


@pytest.mark.parametrize("size", [3, 5])
def test_images_are_correlated_with_the_filter_of_their_class_and_divided_by_their_maximum(size):
    filters = np.random.default_rng(0).uniform(size=(4, size, size)).astype(np.float32)
    targets = np.array([3, 0, 3, 1, 2, 2])
    method = protection.convolutional(4, kernel_size=size)
    data = {"inputs": images(), "targets": jnp.asarray(targets), "index": jnp.arange(6)}
    protected = method.apply(jnp.asarray(filters), data)
    for image, target, actual in zip(images(), targets, protected["inputs"], strict=True):
        expected = np.stack(
            [
                ndimage.correlate(np.asarray(image[..., c]), filters[target], mode="constant")
                for c in range(3)
            ],
            axis=-1,
        )
        np.testing.assert_allclose(actual, expected / expected.max(), rtol=1e-5)
    assert protected["targets"] is data["targets"] and protected["index"] is data["index"]
    assert method.needs == {"labels"}


def test_one_weight_alone_shifts_and_a_black_image_stays_black():
    pictures = images(2).at[1].set(0.0)
    centre = jnp.zeros((2, 3, 3)).at[:, 1, 1].set(1.0)
    same = protection.filtered(pictures, centre)
    np.testing.assert_allclose(same[0], pictures[0] / pictures[0].max(), rtol=1e-6)
    np.testing.assert_array_equal(same[1], 0.0)
    corner = jnp.zeros((2, 3, 3)).at[:, 0, 2].set(1.0)  # reads the pixel above, to the right
    shifted = np.zeros(pictures.shape[1:], np.float32)
    shifted[1:, :-1] = pictures[0][:-1, 1:]
    actual = protection.filtered(pictures, corner)[0]
    np.testing.assert_allclose(actual, shifted / shifted.max(), rtol=1e-6)


def test_filters_are_uniform_but_for_a_one_at_any_place():
    filters = np.asarray(protection.draw_filters(KEY, 4000, kernel_size=3, blur=0.3))
    assert filters.shape == (4000, 3, 3)
    places = (filters == 1).reshape(4000, 9)
    np.testing.assert_array_equal(places.sum(1), 1)
    np.testing.assert_allclose(places.mean(0), 1 / 9, atol=0.02)  # the centre no more than others
    rest = filters.reshape(4000, 9)[~places]
    assert 0 <= rest.min() and 0.299 < rest.max() <= 0.3
    np.testing.assert_allclose(rest.mean(), 0.15, atol=0.002)
    np.testing.assert_allclose(rest.std(), 0.3 / np.sqrt(12), atol=0.002)


def test_weights_grow_with_the_blur():
    weak, strong = (np.asarray(protection.draw_filters(KEY, 4, blur=b)) for b in (0.2, 0.6))
    np.testing.assert_allclose(strong[weak < 1], 3 * weak[weak < 1], rtol=1e-6)
    assert (strong[weak == 1] == 1).all() and (weak == 1).sum() == 4


def test_a_filter_is_of_the_key_and_its_class_alone():
    few, many = (protection.draw_filters(KEY, number) for number in (3, 7))
    np.testing.assert_array_equal(many[:3], few)
    assert len(np.unique(np.asarray(many).reshape(7, -1), axis=0)) == 7
    other = protection.draw_filters(jax.random.key(1), 3)
    assert (np.abs(other - few).max((1, 2)) > 0.01).all()
    # Whatever the data, and of the size and the blur that are asked for.
    method = protection.convolutional(3, kernel_size=5, blur=0.1)
    own = method.fit(KEY, {"inputs": images(), "targets": jnp.zeros(6, int)})
    np.testing.assert_array_equal(own, protection.draw_filters(KEY, 3, kernel_size=5, blur=0.1))
    assert own.shape == (3, 5, 5)


def test_grey_stays_grey_and_one_filter_knows_no_labels():
    grey = jnp.repeat(images(channels=1), 3, axis=-1)
    method = protection.convolutional(4, one_filter=True)
    filters = method.fit(KEY, {})
    np.testing.assert_array_equal(filters, np.stack([protection.draw_filters(KEY, 4)[0]] * 4))
    first, second = (
        method.apply(filters, {"inputs": grey, "targets": jnp.asarray(targets)})["inputs"]
        for targets in ([0, 1, 2, 3, 0, 1], [3, 3, 2, 2, 1, 0])
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[..., 0], first[..., 2])


def test_bits_are_cut_not_rounded():
    data = {"inputs": images(), "targets": jnp.arange(6) % 4}
    whole, bits = (protection.convolutional(4, in_8_bits=bits) for bits in (False, True))
    filters = whole.fit(KEY, data)
    stored = np.trunc(np.asarray(whole.apply(filters, data)["inputs"]) * 255).astype(np.uint8)
    np.testing.assert_allclose(bits.apply(filters, data)["inputs"] * 255, stored, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"kernel_size": -1}, "kernel_size must be >= 1"),
        ({"kernel_size": 3.0}, "kernel_size must be a whole number"),
        ({"blur": 1.5}, "blur must lie in"),
        ({"blur": -0.1}, "blur must lie in"),
        ({"num_classes": 0}, "num_classes must be >= 1"),
    ],
)
def test_bad_values_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        protection.convolutional(**{"num_classes": 3, **arguments})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"targets": None}, "data must have labels, 'targets', got .'inputs'."),
        ({"targets": [0, 3, 1]}, r"in \[0, 3\), got 3 in row 1"),
        ({"targets": [0, -1, 1]}, r"in \[0, 3\), got -1 in row 1"),
        ({"targets": [0.0, 1.0, 1.0]}, "targets must be class numbers, got float32"),
        ({"inputs": np.full((3, 4), 0.5, np.float32)}, "inputs must be images"),
        ({"inputs": np.full((3, 4, 4, 1), 2, np.int32)}, "inputs must be floating-point"),
        ({"inputs": np.full((3, 4, 4, 1), 1.1, np.float32)}, "inputs must be pixels in"),
        ({"inputs": np.full((3, 4, 4, 1), -0.1, np.float32)}, "inputs must be pixels in"),
        ({"inputs": np.full((3, 4, 4, 1), np.nan, np.float32)}, "inputs must be pixels in"),
    ],
)
def test_bad_data_are_named(data, message):
    good = {"inputs": np.full((3, 4, 4, 1), 0.5, np.float32), "targets": [0, 1, 2]}
    given = {k: jnp.asarray(v) for k, v in (good | data).items() if v is not None}
    method = protection.convolutional(3)
    with pytest.raises(ValueError, match=message):
        method.apply(method.fit(KEY, given), given)
