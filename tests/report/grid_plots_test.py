import numpy as np

from unlearnjax.report import grid_plots

STYLES, OBJECTS = ["photo", "neon"], ["one", "two", "three"]
NEON = np.array([[False] * 3, [True] * 3])


def frame(ax):
    """The lines that set something off, as pairs of points."""
    colour = grid_plots.COLORS[1]
    lines = [line for line in ax.lines if line.get_color() == colour]
    return {tuple(sorted(zip(*line.get_data(), strict=True))) for line in lines}


def names(labels):
    return [label.get_text() for label in labels]


def test_every_answer_stands_in_its_cell_and_what_is_forgotten_is_framed():
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(256, size=(2, 3, 4, 5, 3), dtype=np.uint8)
        for name in ("original", "oracle", "esd")
    }
    figure = grid_plots.answers(images, STYLES, OBJECTS, NEON)
    assert [ax.get_title() for ax in figure.axes] == ["original", "oracle", "esd", ""]
    for ax, own in zip(figure.axes, images.values(), strict=False):
        sheet = np.asarray(ax.images[0].get_array())
        for row in range(2):
            for column in range(3):
                part = sheet[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
                np.testing.assert_array_equal(part, own[row, column])
        assert names(ax.get_yticklabels()) == STYLES and names(ax.get_xticklabels()) == OBJECTS
        assert ax.get_xticks().tolist() == [0.5, 1.5, 2.5]
        # Around the lower row, and nothing within it.
        around = {((x, y), (x + 1, y)) for x in range(3) for y in (1, 2)}
        around |= {((x, 1), (x, 2)) for x in (0, 3)}
        assert frame(ax) == around
    assert not figure.axes[3].axison


def test_shares_are_written_into_their_cells():
    shares = {"esd": np.array([[0.5, 1.0, 0.126], [0.0, np.nan, 0.9]])}
    figure = grid_plots.heat_maps(shares, STYLES, OBJECTS, NEON[:, ::-1] & False)
    (ax,) = figure.axes
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "50", (1, 0): "100", (2, 0): "13", (0, 1): "0", (2, 1): "90"}
    assert ax.images[0].get_clim() == (0, 1) and not frame(ax)
    one = grid_plots.heat_maps(shares, STYLES, OBJECTS, np.array([[0, 0, 0], [0, 1, 0]], bool))
    square = {((0.5, y), (1.5, y)) for y in (0.5, 1.5)} | {((x, 0.5), (x, 1.5)) for x in (0.5, 1.5)}
    assert frame(one.axes[0]) == square


def test_a_point_for_each_seed():
    points = {"oracle": [(1.0, 0.9)], "esd": [(0.8, 0.7), (0.9, 0.5)]}
    (ax,) = grid_plots.frontier(points).axes
    for own, drawn in zip(points.values(), ax.collections, strict=True):
        np.testing.assert_allclose(drawn.get_offsets(), 100 * np.array(own))
    assert names(ax.get_legend().get_texts()) == ["oracle", "esd"]


def test_a_sequence_is_a_triangle_with_what_is_retained_beside_it():
    triangle = np.array([[1.0, np.nan], [0.4, 0.9]])
    figure = grid_plots.triangles({"esd": triangle}, {"esd": np.array([0.8, 0.7])}, ["neon", "two"])
    (ax,) = figure.axes
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "100", (2, 0): "80", (0, 1): "40", (1, 1): "90", (2, 1): "70"}
    assert names(ax.get_xticklabels()) == ["neon", "two", "retained"]
    assert names(ax.get_yticklabels()) == ["after neon", "after two"]
