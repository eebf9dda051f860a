import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
