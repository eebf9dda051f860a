import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import protection


def pair():
    rng = np.random.default_rng(0)
    clean = rng.uniform(size=(3, 9, 8, 2))
    changed = np.clip(clean + rng.uniform(-0.2, 0.2, size=clean.shape), 0, 1)
    return clean.astype(np.float32), changed.astype(np.float32)


def windows(image, size):
    """Every window of an image `[H, W]`, flat."""
    views = np.lib.stride_tricks.sliding_window_view(image.astype(np.float64), (size, size))
    return views.reshape(-1, size * size)


@pytest.mark.parametrize("size", [3, 7])
def test_similarity_is_the_papers_window_by_window(size):
    clean, changed = pair()
    expected = []
    for x, y in zip(clean, changed, strict=True):
        values = []
        for channel in range(2):
            a, b = (windows(image[..., channel], size) for image in (x, y))
            for one, other in zip(a, b, strict=True):
                (var_x, cov), (_, var_y) = np.cov(one, other)  # ddof = 1
                c1, c2 = 0.01**2, 0.03**2
                mean_x, mean_y = one.mean(), other.mean()
                values.append(
                    (2 * mean_x * mean_y + c1) * (2 * cov + c2)
                    / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
                )  # fmt: skip
        expected.append(np.mean(values))
    actual = protection.ssim(jnp.asarray(clean), jnp.asarray(changed), window=size)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_flat_images_of_another_grey_lose_similarity_by_their_means_alone():
    x, y = jnp.full((1, 7, 7, 1), 0.9), jnp.full((1, 7, 7, 1), 0.3)
    expected = (2 * 0.27 + 1e-4) / (0.81 + 0.09 + 1e-4)
    np.testing.assert_allclose(protection.ssim(x, y), [expected], rtol=1e-5)


def test_what_a_change_costs():
    clean, changed = pair()
    row = protection.budget(clean, changed)
    change = changed.astype(np.float64) - clean
    np.testing.assert_allclose(row["linf"], 255 * np.abs(change).max(), rtol=1e-5)
    norms = [np.linalg.norm(one) for one in change]
    np.testing.assert_allclose(row["l2"], np.mean(norms), rtol=1e-5)
    np.testing.assert_allclose(row["psnr"], 10 * np.log10(1 / (change**2).mean()), rtol=1e-5)
    np.testing.assert_allclose(row["ssim"], protection.ssim(clean, changed).mean(), rtol=1e-6)
    small = protection.budget(clean, changed, window=3)["ssim"]
    assert abs(float(small - row["ssim"])) > 1e-3
    same = protection.budget(clean, clean)
    assert {k: float(v) for k, v in same.items()} == {
        "linf": 0.0,
        "l2": 0.0,
        "psnr": np.inf,
        "ssim": 1.0,
    }


@pytest.mark.parametrize(
    ("window", "shapes", "message"),
    [
        (4, [(1, 8, 8, 1)] * 2, "window must be odd, got 4"),
        (1, [(1, 8, 8, 1)] * 2, "window must be >= 3"),
        (9, [(1, 8, 12, 1)] * 2, "window must be at most the images' 8 pixels, got 9"),
        (7, [(1, 8, 8, 1), (2, 8, 8, 1)], "images must be pairs"),
        (7, [(8, 8, 1)] * 2, "clean must be images"),
    ],
)
def test_bad_values_are_named(window, shapes, message):
    with pytest.raises(ValueError, match=message):
        protection.budget(*(np.zeros(shape, np.float32) for shape in shapes), window=window)
    with pytest.raises(ValueError, match="changed must be pixels"):
        protection.budget(np.zeros((1, 8, 8, 1)), np.full((1, 8, 8, 1), 1.5))
