import numpy as np

from unlearnjax.report import backdoor_plots


def test_shares_set_off_the_class_that_the_attack_wants():
    shares = np.array([[0.2, 0.5, 0.3], [0.1, 0.9, 0.0]])
    curves = {"shares": shares, "accuracy": np.array([0.8, 0.2]), "attack": np.array([1.0, 0.7])}
    figure = backdoor_plots.shares({"clean": curves, "poisoned": curves}, label=1)
    for ax in figure.axes:
        drawn = np.array([line.get_ydata() for line in ax.lines])
        np.testing.assert_allclose(drawn, [*shares.T, curves["accuracy"], curves["attack"]])
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2])
        widths = [line.get_linewidth() for line in ax.lines[:3]]
        assert widths[1] > widths[0] == widths[2]
    assert [ax.get_title() for ax in figure.axes] == ["clean", "poisoned"]
    names = [text.get_text() for text in figure.axes[-1].get_legend().get_texts()]
    assert names == ["other classes", "class 1, the attack's", "accuracy", "attack"]


def test_a_row_per_model_ends_with_the_trigger():
    rng = np.random.default_rng(0)
    triggers = {"raw": rng.random((3, 4, 4, 1)), "exposed": rng.random((3, 4, 4, 1))}
    support = np.eye(4, dtype=bool)
    figure = backdoor_plots.recovered(triggers, support, label=2)
    images = [ax.images[0].get_array() for ax in figure.axes]
    assert len(images) == 8
    np.testing.assert_allclose(images[1], triggers["raw"][1, ..., 0])
    np.testing.assert_allclose(images[6], triggers["exposed"][2, ..., 0])
    np.testing.assert_array_equal(images[7], support)
    widths = [ax.spines["left"].get_linewidth() for ax in figure.axes]
    assert widths.index(max(widths)) == 2
    assert [ax.get_title() for ax in figure.axes[:4]] == ["0", "1", "2", "trigger"]
    colours = backdoor_plots.recovered({"raw": rng.random((3, 4, 4, 3))}, support, 0)
    assert colours.axes[0].images[0].get_array().shape == (4, 4, 3)
