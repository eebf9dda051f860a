import numpy as np

from unlearnjax.report import step_plots


def test_methods_go_from_the_original_through_the_band_of_the_oracles():
    def row(method, value, std):
        return {"method": method, "quality": value, "quality_std": std}

    summary = [
        row("oracle", 0.5, 0.1),
        row("original", 0.0, np.nan),
        row("npo_20", 0.9, 0.2),
        row("npo_5", 0.4, 0.0),
        row("ssd", 0.3, 0.0),
    ]
    runs = {"npo": {20: "npo_20", 5: "npo_5"}, "ssd": {1: "ssd"}}
    figure = step_plots.by_steps(summary, runs, {"quality": "forget quality"})
    (ax,) = figure.axes
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    np.testing.assert_allclose([band.y0, band.y1], [0.4, 0.6])
    npo, ssd = ax.containers
    np.testing.assert_allclose(npo.lines[0].get_xydata(), [[0, 0.0], [5, 0.4], [20, 0.9]])
    np.testing.assert_allclose(ssd.lines[0].get_xydata(), [[0, 0.0], [1, 0.3]])
    bars = npo.lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0, 0], [0.4, 0.4], [0.7, 1.1]])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["oracle", "npo", "ssd"] and ax.get_ylabel() == "forget quality"


def test_the_band_of_one_oracle_is_a_line():
    summary = [
        {"method": name, "a": 1.0, "a_std": np.nan, "b": 2.0, "b_std": 0.5}
        for name in ("oracle", "original", "x")
    ]
    figure = step_plots.by_steps(summary, {"x": {3: "x"}}, {"a": "A", "b": "B"})
    extents = [
        ax.patches[0].get_extents().transformed(ax.transData.inverted()) for ax in figure.axes
    ]
    np.testing.assert_allclose([(e.y0, e.y1) for e in extents], [(1, 1), (1.5, 2.5)], atol=1e-9)
