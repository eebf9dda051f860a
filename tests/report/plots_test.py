import numpy as np

from unlearnjax.report import plots


def test_curves_go_through_what_there_is_and_may_have_any_sign():
    curve = [3.0, np.nan, 2.0, np.nan, 1.0]
    (ax,) = plots.training_curves({"original": [curve, curve[::-1]], "rests": [np.nan] * 5}).axes
    first, second, resting = ax.lines
    np.testing.assert_array_equal(first.get_xydata(), [[1, 3.0], [3, 2.0], [5, 1.0]])
    np.testing.assert_array_equal(second.get_ydata(), [1.0, 2.0, 3.0])
    assert len(resting.get_xdata()) == 0 and ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["original", "rests"]
    (ax,) = plots.training_curves({"one": [1.0, 2.0], "two": [1.0, -1.0]}).axes
    assert ax.get_yscale() == "linear"
    (ax,) = plots.training_curves({}).axes
    assert not ax.lines
