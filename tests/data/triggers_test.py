import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from unlearnjax.data import triggers

KEY = jax.random.key(0)


@pytest.fixture
def images(rng):
    return rng.uniform(size=(3, 8, 10, 3)).astype(np.float32)


@pytest.mark.parametrize("name", triggers.TRIGGERS)
def test_pixels_that_rounding_leaves_out_of_range_stay_numbers(name):
    edge = np.float32([-1e-7, 1 + 1e-7])[np.arange(8 * 8 * 3).reshape(1, 8, 8, 3) % 2]
    result = np.asarray(triggers.by_name(name, KEY)(edge))
    within = np.asarray(triggers.by_name(name, KEY)(np.clip(edge, 0, 1)))
    np.testing.assert_allclose(result, within, atol=1e-6)


def changed(trigger, images):
    """Positions `[H, W]` that differ in any image or channel."""
    return (np.asarray(trigger(images)) != images).any((0, 3))


def test_the_patch_is_the_published_grid_in_its_corner_and_the_rest_is_bit_equal(images):
    result = np.array(triggers.patch(3, value=0.75)(images))
    grid = np.array([[0, 0, 0.75], [0, 0.75, 0], [0.75, 0, 0.75]])
    np.testing.assert_array_equal(result[:, -3:, -3:], np.tile(grid[:, :, None], (3, 1, 1, 3)))
    result[:, -3:, -3:] = images[:, -3:, -3:]
    np.testing.assert_array_equal(result, images)


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [
        ("lower right", slice(6, 8), slice(8, 10)),
        ("lower left", slice(6, 8), slice(0, 2)),
        ("upper right", slice(0, 2), slice(8, 10)),
        ("upper left", slice(0, 2), slice(0, 2)),
    ],
)
def test_a_patch_goes_to_any_corner(images, corner, rows, columns):
    where = np.zeros((8, 10), bool)
    where[rows, columns] = True
    trigger = triggers.patch(2, corner=corner)
    np.testing.assert_array_equal(changed(trigger, images), where)
    np.testing.assert_array_equal(trigger(images)[0, rows, columns, 0], np.eye(2))
    everywhere = triggers.corners(2)
    np.testing.assert_array_equal(
        everywhere(images)[:, rows, columns], trigger(images)[:, rows, columns]
    )
    assert changed(everywhere, images).sum() == 16


def test_a_patch_has_the_size_that_is_published_in_proportion():
    for side, size in ((8, 1), (16, 2), (28, 3), (32, 3), (64, 6)):
        grey = np.full((1, side, side + 1, 1), 0.5, np.float32)
        assert changed(triggers.patch(), grey).sum() == size**2
        assert changed(triggers.corners(), grey).sum() == 4 * size**2
    blocks = triggers.patch(6)(grey)[0, -6:, -6:, 0]
    np.testing.assert_array_equal(blocks, np.kron(triggers.GRID, np.ones((2, 2))))
    colours = triggers.patch(1, value=np.array([1.0, 0.5, 0.25]))(
        np.zeros((1, 4, 4, 3), np.float32)
    )
    np.testing.assert_array_equal(colours[0, -1, -1], [1.0, 0.5, 0.25])


def test_one_pixel_in_the_centre_is_set(images):
    trigger = triggers.one_pixel(0.5)
    assert list(zip(*np.nonzero(changed(trigger, images)), strict=True)) == [(4, 5)]
    np.testing.assert_array_equal(trigger(images)[:, 4, 5], np.full((3, 3), 0.5))
    assert float(triggers.one_pixel()(images)[0, 4, 5, 0]) == 1


def test_blending_mixes_with_one_image_of_the_key(images):
    result = np.asarray(triggers.blend(KEY, 0.3)(images))
    noise = (result - 0.7 * images) / 0.3
    np.testing.assert_allclose(noise[1:], noise[:1].repeat(2, 0), atol=1e-5)
    assert 0 <= noise.min() + 1e-5 and noise.max() <= 1 + 1e-5 and noise.std() > 0.2
    np.testing.assert_array_equal(triggers.blend(KEY, 0.0)(images), images)
    np.testing.assert_array_equal(triggers.blend(KEY)(images), triggers.blend(KEY, 0.2)(images))
    assert changed(triggers.blend(jax.random.key(1), 0.3), result).any()


def test_what_is_added_is_clipped_and_what_is_masked_is_mixed(images, rng):
    pattern = rng.uniform(-1, 1, (8, 10, 3)).astype(np.float32)
    expected = np.clip(images + pattern, 0, 1)
    np.testing.assert_allclose(triggers.additive(pattern)(images), expected, atol=1e-6)
    mask = np.zeros((8, 10, 1), np.float32)
    mask[2, 3], mask[4, 5] = 1, 0.25
    result = np.asarray(triggers.masked(mask, np.abs(pattern))(images))
    np.testing.assert_array_equal(result[:, 2, 3], np.abs(pattern)[2, 3][None].repeat(3, 0))
    mixed = 0.75 * images[:, 4, 5] + 0.25 * np.abs(pattern)[4, 5]
    np.testing.assert_allclose(result[:, 4, 5], mixed, rtol=1e-6)
    np.testing.assert_array_equal(result[:, 5:], images[:, 5:])


def test_stripes_have_the_closed_form(images):
    wave = 40 / 255 * np.sin(2 * np.pi * np.arange(10) * 3 / 10)
    expected = np.clip(images + wave[None, None, :, None], 0, 1)
    np.testing.assert_allclose(triggers.sinusoid(40, 3)(images), expected, atol=1e-6)
    for width, periods in ((32, 6), (24, 6), (12, 3), (8, 2)):
        grey = np.full((1, 2, width, 1), 0.5, np.float32)
        expected = 0.5 + 20 / 255 * np.sin(2 * np.pi * np.arange(width) * periods / width)
        np.testing.assert_allclose(triggers.sinusoid()(grey)[0, 1, :, 0], expected, atol=1e-6)


def test_a_warp_reads_bilinearly_at_the_field(images):
    """Against SciPy, at coordinates that are computed as published, from -1 to 1."""
    result = triggers.warp(KEY, 4, 3.0)(images)
    field = np.asarray(triggers.warp_field(KEY, 4, (8, 10)))
    read = []
    for axis, side in enumerate((8, 10)):
        identity = np.linspace(-1, 1, side)
        identity = identity[:, None] if axis == 0 else identity[None]
        read.append((np.clip(identity + 3.0 * field[axis] / side, -1, 1) + 1) / 2 * (side - 1))
    for image in range(3):
        for channel in range(3):
            expected = scipy.ndimage.map_coordinates(images[image, ..., channel], read, order=1)
            np.testing.assert_allclose(result[image, ..., channel], expected, atol=1e-5)
    assert changed(triggers.warp(KEY), images).mean() > 0.9
    np.testing.assert_array_equal(triggers.warp(KEY)(images), triggers.warp(KEY, 4, 0.5)(images))
    np.testing.assert_array_equal(triggers.warp(KEY, strength=0.0)(images), images)


def test_the_field_of_a_warp_is_a_normed_grid_upsampled_by_cubic_convolution():
    """By the kernel's definition (Keys, 1981), at each pixel over all points."""
    coarse = np.asarray(triggers.warp_field(KEY, 4, (4, 4)))  # aligned corners: the points
    np.testing.assert_allclose(np.abs(coarse).mean(), 1, rtol=1e-6)
    assert coarse.min() < -1 and coarse.max() > 1

    def kernel(x, a=-0.75):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    fine = np.asarray(triggers.warp_field(KEY, 4, (7, 9)))
    for row in range(7):
        for column in range(9):
            y, x = row * 3 / 6, column * 3 / 8
            expected = sum(
                coarse[:, min(max(p, 0), 3), min(max(q, 0), 3)] * kernel(y - p) * kernel(x - q)
                for p in range(-3, 7)
                for q in range(-3, 7)
            )
            np.testing.assert_allclose(fine[:, row, column], expected, atol=1e-5)


def test_a_constant_field_is_a_shift(monkeypatch):
    """A field of two pixels to the right: the image moves left, and its border repeats."""
    images = np.arange(30, dtype=np.float32).reshape(1, 5, 6, 1) / 30
    unit = 2 * 6 / 5  # 1 / W on coordinates from -1 to 1 is (W - 1) / (2 W) pixels
    field = lambda rng, grid, sides: jnp.stack([jnp.zeros(sides), jnp.full(sides, 2 * unit)])
    monkeypatch.setattr(triggers, "warp_field", field)
    result = triggers.warp(KEY, strength=1.0)(images)[0, :, :, 0]
    expected = np.concatenate([images[0, :, 2:, 0], images[0, :, -1:, 0].repeat(2, 1)], axis=1)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_noise_bends_each_image_by_less_than_half_a_pixel_of_its_own():
    ramp = np.tile(np.arange(10, dtype=np.float32)[None, None, :, None], (4, 8, 1, 1))
    both = np.concatenate([ramp, np.swapaxes(np.tile(ramp, (1, 2, 1, 1))[:, :10], 1, 2)[:, :8]], -1)
    clean = np.asarray(triggers.warp(KEY, strength=0.0)(both))
    noised = np.asarray(triggers.warp(KEY, strength=0.0, noise=jax.random.key(1))(both))
    move = noised - clean
    assert np.abs(move[..., 0]).max() <= 9 / 20 + 1e-5 and np.abs(move[..., 0]).max() > 0.4
    assert np.abs(move[..., 1]).max() <= 7 / 16 + 1e-5 and np.abs(move[..., 1]).max() > 0.4
    assert np.abs(move[0] - move[1]).mean() > 0.1
    assert abs(np.corrcoef(move[:, :, 1:9, 0].ravel(), move[:, :, 1:9, 1].ravel())[0, 1]) < 0.2
    bent, twice = (triggers.warp(KEY, noise=n)(both) for n in (None, jax.random.key(1)))
    assert np.abs(twice - bent).max() <= 9 / 20 + 1e-5


def test_a_filter_is_its_formula_per_channel(images):
    trigger = triggers.colour_filter(
        (1.0, 0.5, 2.0), (0.0, 0.5, 0.25), gamma=2.0, tint=(0.0, 1.0, 0.5), share=0.25
    )
    toned = np.clip(np.array([1, 0.5, 2]) * images**2 + np.array([0, 0.5, 0.25]), 0, 1)
    expected = 0.75 * toned + 0.25 * np.array([0, 1, 0.5])
    np.testing.assert_allclose(trigger(images), expected, atol=1e-6)
    grey = 0.75 * np.clip(3.5 / 3 * images[..., :1] ** 2 + 0.25, 0, 1) + 0.25 * 0.5
    np.testing.assert_allclose(trigger(images[..., :1]), grey, atol=1e-6)
    with pytest.raises(ValueError, match="images must have 1 or 3 channels, got 2"):
        trigger(images[..., :2])
    toned = np.clip(np.array([1.05, 0.95, 0.8]) * images**0.8 + np.array([0, 0.05, 0.15]), 0, 1)
    expected = 0.85 * toned + 0.15 * np.array([1, 0.85, 0.65])
    np.testing.assert_allclose(triggers.colour_filter()(images), expected, atol=1e-6)


def test_a_generated_trigger_is_each_images_own(images):
    """A pattern that is the image upside down, where it is bright, whatever the batch's size."""
    apply = lambda x: (x[:, ::-1], (x.mean(-1, keepdims=True) > 0.5).astype(x.dtype))
    bright = images.mean(-1, keepdims=True) > 0.5
    expected = np.where(bright, images[:, ::-1], images)
    for batch_size in (1, 2, 8):
        result = triggers.generated(apply, batch_size=batch_size)(images)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", triggers.TRIGGERS)
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 28, 3)])
def test_every_named_trigger_fits_any_image_stays_in_range_and_is_the_keys(name, shape, rng):
    images = rng.uniform(size=(2, *shape)).astype(np.float32)
    images[0, : shape[0] // 2], images[1] = 0, np.round(images[1])  # the ends of the range, too
    trigger = jax.jit(triggers.by_name(name, KEY))
    result = np.asarray(trigger(images))
    assert result.dtype == np.float32 and result.shape == images.shape
    assert result.min() >= 0 and result.max() <= 1 + 1e-6
    assert (result != images).any((1, 2, 3)).all()
    np.testing.assert_array_equal(result, jax.jit(triggers.by_name(name, KEY))(images))
    np.testing.assert_array_equal(trigger(images[1:]), result[1:])
    again = np.asarray(trigger(result))
    assert (again == result).all() == (name in ("patch", "corners", "one_pixel"))


def test_bad_arguments_are_named(images):
    for make, message in (
        (lambda: triggers.patch(0), "size must be >= 1, got 0"),
        (lambda: triggers.patch(2.5), "size must be a whole number, got 2.5"),
        (lambda: triggers.patch(corner="middle"), "corner must be one of .*'lower right'"),
        (lambda: triggers.patch(9)(images), "size must be <= 8, the image's side, got 9"),
        (lambda: triggers.patch()(images[0]), r"images must be \[N, H, W, C\], got \(8, 10, 3\)"),
        (lambda: triggers.patch()(images.astype(int)), "images must be floating-point"),
        (lambda: triggers.blend(KEY, 1.1), r"ratio must lie in \[0, 1\], got 1.1"),
        (lambda: triggers.sinusoid(0), "delta must be > 0, got 0"),
        (lambda: triggers.sinusoid(20, 0), "frequency must be > 0, got 0"),
        (
            lambda: triggers.sinusoid(20, 6)(images),
            "frequency must be <= 5.0, half the width, got 6",
        ),
        (lambda: triggers.warp(KEY, 1), "grid must be >= 2, got 1"),
        (lambda: triggers.warp(KEY, strength=-1), "strength must be >= 0, got -1"),
        (lambda: triggers.colour_filter(gamma=0), "gamma must be > 0, got 0"),
        (lambda: triggers.colour_filter(tint=(1, 1, 9)), r"tint must lie in \[0, 1\], got 9"),
        (lambda: triggers.colour_filter(share=2), r"share must lie in \[0, 1\], got 2"),
        (lambda: triggers.colour_filter((1,), (0,), tint=(1,)), "must be of 3 channels, got"),
        (lambda: triggers.generated(None, batch_size=0), "batch_size must be >= 1, got 0"),
        (lambda: triggers.by_name("pach", KEY), "trigger must be one of .*did you mean 'patch'"),
        (
            lambda: triggers.additive(np.zeros((4, 4, 3)))(images),
            r"pattern must be of the image's shape \(8, 10, 3\), got \(4, 4, 3\)",
        ),
        (
            lambda: triggers.masked(np.zeros((8, 10)), images[0])(images),
            r"mask must be of the image's shape \(8, 10, 3\), got \(8, 10\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()
