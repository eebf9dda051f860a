import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import protection

KEY = jax.random.key(0)


def images(number=5):
    values = np.random.default_rng(0).uniform(size=(number, 4, 5, 2))
    return jnp.asarray(values, jnp.float32)


def test_noise_is_as_large_as_the_budget_and_its_own_for_each():
    noise = np.asarray(protection.random_noise(KEY, 40, (4, 5, 2), 0.2))
    assert set(np.unique(noise)) == {np.float32(-0.2), np.float32(0.2)}
    assert abs(noise.mean()) < 0.03
    assert len(np.unique(noise.reshape(40, -1), axis=0)) == 40
    np.testing.assert_array_equal(protection.random_noise(KEY, 3, (4, 5, 2), 0.2), noise[:3])


def test_images_of_a_class_get_its_noise_and_stay_pixels():
    method = protection.class_noise(3, 0.25)
    data = {"inputs": images(), "targets": jnp.array([2, 0, 2, 1, 0]), "index": jnp.arange(5)}
    noise = method.fit(KEY, data)
    np.testing.assert_array_equal(noise, protection.random_noise(KEY, 3, (4, 5, 2), 0.25))
    protected = method.apply(noise, data)
    expected = np.clip(np.asarray(images()) + np.asarray(noise)[[2, 0, 2, 1, 0]], 0, 1)
    np.testing.assert_array_equal(protected["inputs"], expected)
    assert protected["index"] is data["index"] and method.needs == {"labels"}
    usual = np.abs(protection.class_noise(3).fit(KEY, data))
    np.testing.assert_allclose(usual, 16 / 255, rtol=1e-6)


def test_bad_values_are_named():
    for arguments, message in (
        ((0,), "num_classes must be >= 1"),
        ((3, 0.0), r"epsilon must lie in \(0, 1\]"),
        ((3, 1.5), r"epsilon must lie in \(0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            protection.class_noise(*arguments)
    method = protection.class_noise(2)
    good = {"inputs": images(), "targets": jnp.zeros(5, int)}
    with pytest.raises(ValueError, match="inputs must be pixels"):
        method.fit(KEY, good | {"inputs": images() + 1})
    noise = method.fit(KEY, good)
    with pytest.raises(ValueError, match="inputs must be pixels"):
        method.apply(noise, good | {"inputs": images() + 1})
    with pytest.raises(ValueError, match="got 2 in row 0"):
        method.apply(noise, good | {"targets": jnp.full(5, 2)})
    with pytest.raises(ValueError, match="got 2 in row 0"):  # of the classes of the memory
        protection.class_noise(3).apply(noise, good | {"targets": jnp.full(5, 2)})
