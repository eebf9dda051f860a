import json
import math

import pytest

from experiments import compare
from unlearnjax.report import load_results, results


def write_run(folder, names, **config):
    folder.mkdir(parents=True)
    summary = [
        {"method": m, "test_accuracy": 0.9, "test_accuracy_std": None, "seconds": 1.0}
        for m in names
    ]
    rows = [{"method": m, "seed": s, "test_accuracy": 0.9} for m in names for s in (0, 1)]
    config = {"task": "classification", **config}
    value = {"experiment": "unlearn", "config": config, "summary": summary, "rows": rows}
    (folder / "results.json").write_text(json.dumps(value))
    return folder


@pytest.fixture
def runs(tmp_path):
    first = write_run(tmp_path / "a" / "run", ("oracle", "ssd"), dataset="digits", methods=["ssd"])
    second = write_run(
        tmp_path / "b" / "run", ("oracle", "scrub"), dataset="digits", methods=["scrub"]
    )
    return first, second


def as_dicts(frame):
    return frame if isinstance(frame, list) else frame.to_dict("records")


def test_rows_of_several_runs_come_with_their_run(runs):
    rows = as_dicts(load_results(*runs))
    assert [(r["run"], r["method"], r["seed"]) for r in rows[:3]] == [
        ("a/run", "oracle", 0),
        ("a/run", "oracle", 1),
        ("a/run", "ssd", 0),
    ]
    assert len(rows) == 8
    summary = as_dicts(load_results(runs[0] / "results.json", part="summary"))
    assert [r["run"] for r in summary] == ["run", "run"]
    assert math.isnan(summary[0]["test_accuracy_std"])


@pytest.mark.parametrize("installed", [True, False])
def test_a_frame_where_pandas_is_installed(runs, monkeypatch, installed):
    import sys
    import types

    made = []
    module = types.SimpleNamespace(DataFrame=lambda rows: made.append(rows) or "frame")
    monkeypatch.setitem(sys.modules, "pandas", module if installed else None)
    assert (load_results(runs[0]) == "frame") == installed
    assert len(made) == installed


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no finished run"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as results"):
        load_results(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no results"):
        load_results(tmp_path)
    with pytest.raises(ValueError, match="part must be"):
        load_results(tmp_path, part="columns")
    with pytest.raises(ValueError, match="at least one"):
        load_results()


def test_the_same_run_twice_has_two_names(runs):
    assert len(set(results.run_names((runs[0], runs[0])))) == 2


def test_runs_are_merged_and_other_problems_named(runs, tmp_path):
    rows, cells, differences = compare.merged([str(run) for run in runs])
    assert [(r["run"], r["method"]) for r in rows] == [
        ("a/run", "oracle"),
        ("a/run", "ssd"),
        ("b/run", "oracle"),
        ("b/run", "scrub"),
    ]
    assert differences == []  # other methods are no other problem
    other = write_run(tmp_path / "c", ("oracle",), dataset="cifar10", methods=[])
    differences = compare.merged([str(runs[0]), str(other)]).differences
    assert differences == ["c: config.dataset: stored 'digits', now 'cifar10'"]
    header, texts = cells[0]
    assert header == "run" and texts == ["a/run", "a/run", "b/run", "b/run"]
    with pytest.raises(ValueError, match="at least two"):
        compare.merged([str(runs[0])])
    result = {
        "experiment": "datamodel",
        "config": {"task": "classification"},
        "summary": [{"klom": 1.0}],
        "rows": [],
    }
    (other / "results.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="no table of methods"):
        compare.merged([str(runs[0]), str(other)])


def test_a_run_of_another_modality_has_its_own_columns_and_dashes_elsewhere(runs, tmp_path):
    other = write_run(tmp_path / "c", ("oracle", "original", "idle"), task="regression")
    result = json.loads((other / "results.json").read_text())
    for row, gap in zip(result["summary"], (0.0, -0.5, -0.4), strict=True):
        del row["test_accuracy"]
        row |= {"forget_error": 0.5 + gap, "forget_error_gap": gap}
    (other / "results.json").write_text(json.dumps(result))
    cells = compare.merged([str(runs[0]), str(other)]).cells
    assert [header for header, _ in cells] == ["run", "method", "test %", "forget error", "time"]
    table = dict(cells)
    # Each run is held against its own original.
    assert table["method"] == ["oracle", "ssd", "oracle", "original", "idle (did not forget)"]
    assert table["test %"] == ["90.0", "90.0", "–", "–", "–"]
    assert table["forget error"] == ["–", "–", "0.500", "0.000 (-0.500)", "0.100 (-0.400)"]
    assert table["time"] == ["1 s"] * 5


def test_compare_from_the_command_line(runs, tmp_path):
    import subprocess
    import sys

    from tests.experiments import cli

    out = tmp_path / "out"
    command = [sys.executable, "-m", "experiments.compare", *map(str, runs), f"--workdir={out}"]
    result = subprocess.run(command, cwd=cli.ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "scrub" in result.stdout and "a/run" in result.stdout
    assert {p.name for p in out.iterdir()} == {"compare.csv", "compare.json", "compare.html"}
    result = subprocess.run(command[:4], cwd=cli.ROOT, capture_output=True, text=True)
    assert result.returncode != 0 and "at least two runs" in result.stderr
