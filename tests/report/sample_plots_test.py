import numpy as np
import pytest

from unlearnjax.report import sample_plots


@pytest.mark.parametrize("channels", [1, 3])
def test_every_sample_stands_in_its_row_and_column(channels):
    rng = np.random.default_rng(0)
    samples = {
        name: rng.integers(256, size=(4, 5, 2, 3, channels), dtype=np.uint8)
        for name in ("oracle", "ssd")
    }
    figure = sample_plots.grid(samples, list("abcde"), marked=(1,), num_rows=3)
    assert [ax.get_ylabel() for ax in figure.axes] == ["oracle", "ssd"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == list("abcde")
    for ax, images in zip(figure.axes, samples.values(), strict=True):
        sheet = np.asarray(ax.images[0].get_array())
        assert sheet.shape[:2] == (3 * 2, 5 * 3)
        for row in range(3):
            for column in range(5):
                part = sheet[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
                np.testing.assert_array_equal(
                    part,
                    np.squeeze(images[row, column], -1) if channels == 1 else images[row, column],
                )
        if channels == 1:  # not stretched to what the samples happen to have
            assert ax.images[0].get_clim() == (0, 255)
        (box,) = ax.patches
        left, right = box.get_extents().transformed(ax.transData.inverted()).intervalx
        assert (left, right) == pytest.approx((2.5, 5.5), abs=1e-6)
