import numpy as np
import pytest

from unlearnjax.data import styles

# A bright right half: edges along the middle, nothing else.
STEP = np.repeat([[0.0, 0.0, 1.0, 1.0]], 4, axis=0)


def colours(style, image=STEP, row=0):
    return styles.render(image, style)[row].tolist()


def test_every_style_is_what_was_worked_out_by_hand():
    black, white = [0, 0, 0], [255, 255, 255]
    assert colours("photo") == [black, black, white, white]
    dark, pale = [51, 0, 13], [255, 204, 178]
    assert colours("crimson") == [dark, dark, pale, pale]
    deep, light = [0, 26, 102], [178, 230, 255]  # the bright half is the dark one
    assert colours("ocean") == [light, light, deep, deep]
    assert colours("sketch") == [white, black, black, white]
    night, cyan = [0, 0, 26], [0, 255, 255]
    assert colours("neon") == [night, cyan, cyan, night]
    brown, cream = [51, 26, 0], [255, 230, 153]
    assert colours("halftone") == [brown, brown, cream, cream]
    assert colours("mosaic") == [[0, 51, 0]] * 2 + [[153, 255, 153]] * 2
    ground, line = [51, 0, 76], [230, 204, 255]
    assert colours("hatch", np.ones((4, 4))) == [line, line, ground, ground]
    assert colours("hatch", np.ones((4, 4)), row=1) == [line, ground, ground, line]


def test_half_grey_is_dithered_to_half_of_the_block():
    """Of the thresholds 0.5/16 to 15.5/16 a grey of n/16 passes n."""
    for number in range(17):
        image = styles.render(np.full((6, 10), number / 16), "halftone")
        assert (image[:4, :4, 0] == 255).sum() == number
        at = styles.render(np.full((4, 4), min(number + 0.5, 16) / 16), "halftone")
        assert (at[..., 0] == 255).sum() == number  # the threshold itself is not passed
        np.testing.assert_array_equal(image[4:, :4], image[:2, :4])  # blocks repeat
        np.testing.assert_array_equal(image[:, 8:], image[:, :2])
    ordered = styles.render(np.full((4, 4), 3 / 16), "halftone")[..., 0] == 255
    assert np.argwhere(ordered).tolist() == [[0, 0], [0, 2], [2, 2]]


def test_mosaic_has_four_levels_of_block_means():
    image = np.zeros((2, 8))
    image[:, 0], image[:, 2:4], image[:, 4:6], image[:, 6:] = 0.4, 0.3, 0.6, 0.8
    levels = [0, 1, 2, 3]  # of means 0.2, 0.3, 0.6 and 0.8
    greens = np.repeat([round(51 + 204 * level / 3) for level in levels], 2)
    assert styles.render(image, "mosaic")[1, :, 1].tolist() == greens.tolist()


def test_edges_are_differences_of_the_neighbours_on_either_side():
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(2, 6, 4))
    expected = np.zeros_like(image)
    for n in range(2):
        for i in range(6):
            for j in range(4):
                down = image[n, min(i + 1, 5), j] - image[n, max(i - 1, 0), j]
                right = image[n, i, min(j + 1, 3)] - image[n, i, max(j - 1, 0)]
                expected[n, i, j] = min(1.0, (down**2 + right**2) ** 0.5)
    np.testing.assert_allclose(styles.edges(image), expected, atol=1e-12)


@pytest.mark.parametrize("style", styles.STYLES)
def test_images_are_rendered_one_by_one_into_different_bytes(style):
    images = np.random.default_rng(1).uniform(size=(3, 8, 8)).astype(np.float32)
    found = styles.render(images, style)
    assert found.shape == (3, 8, 8, 3) and found.dtype == np.uint8
    for image, own in zip(images, found, strict=True):
        np.testing.assert_array_equal(styles.render(image, style), own)
    others = [styles.render(images, other) for other in styles.STYLES if other != style]
    assert not any((found == other).all() for other in others)


def test_what_is_no_grey_image_is_refused():
    with pytest.raises(ValueError, match=r"style must be one of .*got 'neno'; did you mean 'neon'"):
        styles.render(STEP, "neno")
    with pytest.raises(ValueError, match=r"images must lie in \[0, 1\], got 0.0 to 255.0"):
        styles.render(255 * STEP, "photo")
    for wrong in (np.full((2, 2), np.nan), STEP - 0.1):
        with pytest.raises(ValueError, match="images must lie in"):
            styles.render(wrong, "photo")
    with pytest.raises(ValueError, match="images must be floating-point"):
        styles.render(STEP.astype(np.uint8), "photo")
    for shape in ((4,), (3, 4), (4, 3), (0, 4, 4)):
        with pytest.raises(ValueError, match=r"images must be \[\.\.\., H, W\], H and W even"):
            styles.render(np.zeros(shape), "photo")
