import json
import re

import pytest
from matplotlib.figure import Figure

from configs import unlearn
from experiments import publish


@pytest.mark.parametrize("path", publish.documents(), ids=lambda path: path.name)
def test_tables_in_the_documents_are_those_of_the_published_results(path):
    text = path.read_text()
    assert publish.with_tables(text) == text
    for name, _ in re.findall(publish.MARKER, text):
        assert (publish.RESULTS / f"{name}.json").exists(), name


def test_results_are_rounded_and_small():
    assert publish.rounded({"a": [1 / 3, 12345678, "x"]}) == {"a": [0.33333, 12345678, "x"]}
    for path in publish.RESULTS.glob("*.json"):
        results = json.loads(path.read_text())
        assert {"config", "environment", "summary"} <= set(results), path.name
        assert path.stat().st_size < 250_000, path.name


def test_only_finished_runs_are_published(tmp_path):
    with pytest.raises(ValueError, match="must be a finished run"):
        publish.publish(tmp_path, "x")


def test_the_frontiers_are_drawn_of_the_default_methods_and_of_all(tmp_path, monkeypatch):
    drawn = []
    frontier = lambda rows: drawn.append([row["method"] for row in rows]) or Figure()
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish.plots, "frontier", frontier)
    (tmp_path / "docs").mkdir()
    publish.picture(publish.PICTURED)
    path = publish.RESULTS / f"{publish.PICTURED}.json"
    every = [row["method"] for row in json.loads(path.read_text())["summary"]]
    assert drawn[1] == every
    assert sorted(drawn[0]) == sorted({"oracle", "original", *unlearn.CHOSEN} & set(every))
    for end in ("", "_all"):
        png = (tmp_path / "docs" / f"digits_frontier{end}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
