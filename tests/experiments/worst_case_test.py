import json
import signal
import time

import numpy as np
import pytest

from experiments import worst_case
from experiments.common import worst_case_report
from tests.experiments import cli

CONFIG = (
    "configs/worst_case.py:digits,train=300,test=100,seeds=3,search=finetune+random_label,"
    "method=finetune+ssd"
)
FLAGS = (
    "--config.num_references=16",
    "--config.num_originals=6",
    "--config.train.num_epochs=15",
    "--config.train.batch_size=32",
    "--config.model.options.hidden=(16,)",
    "--config.search.num_epochs=5",
    "--config.search.batch_size=32",
)


# For what does not ask how good the sets are.
FEW = (
    "--config.num_references=8",
    "--config.search.num_epochs=2",
    "--config.easiest=('finetune',)",
)
ONE = CONFIG.replace("seeds=3", "seeds=2").replace("+random_label", "")


def command(workdir, *flags, config=CONFIG):
    return cli.command(workdir, *FLAGS, *flags, config=config, experiment="worst_case")


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
def test_sets_are_searched_and_compared(tmp_path, tfds_dir):
    flags = ("--config.num_originals=0", "--config.easiest=()")
    config = CONFIG.replace("+random_label", "").replace("+ssd", "")
    process = cli.run(command(tmp_path / "run", *flags, config=config), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    summary = {row["method"]: row for row in results(tmp_path / "run")["summary"]}
    assert set(summary) == {"oracle", "finetune"}
    # Models trained without what is easy still know it, without what is memorised they do not.
    oracle = summary["oracle"]
    assert oracle["gap: worst:finetune"] < oracle["gap: gap:finetune"]
    assert oracle["gap: lowest_loss"] < oracle["gap: memorised"]
    low, high = (summary["finetune"][f"more_gap: gap:finetune_{x}"] for x in ("low", "high"))
    assert low < summary["finetune"]["more_gap: gap:finetune"] < high
    for figure in ("gaps", "overlap", "composition", "images"):
        assert (tmp_path / "run" / "plots" / f"{figure}.png").stat().st_size > 5000
    for name in ("more than random", "ranking"):
        assert name in process.stdout_text


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, tfds_dir):
    flags = (*FEW, "--config.train.num_epochs=2", "--config.klom_sets=('worst:finetune',)")
    run = lambda name: command(tmp_path / name, *flags, config=ONE)
    process = cli.run(run("whole"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    summary = {row["method"]: row for row in results(tmp_path / "whole")["summary"]}
    assert set(summary) == {"oracle", "original", "finetune", "ssd"}
    assert all(np.isfinite(row["klom: worst:finetune"]) for row in summary.values())
    killed = tmp_path / "killed"
    process = cli.start(run("killed"), tfds_dir)
    deadline = time.time() + 240
    while not list((killed / "rows").glob("finetune_*.json")) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "results.json").exists()
    process = cli.run(run("killed"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert results(killed)["rows"] == results(tmp_path / "whole")["rows"]


@pytest.mark.slow
def test_classes_are_selected_as_wholes(tmp_path, tfds_dir):
    flags = ("--config.size=1", "--config.num_originals=0", "--config.ranked=('lowest_loss',)")
    config = ONE.replace("+ssd", "") + ",by=class"
    process = cli.run(command(tmp_path / "run", *FEW, *flags, config=config), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    oracle = next(r for r in results(tmp_path / "run")["summary"] if r["method"] == "oracle")
    assert oracle["gap: random"] == 1.0  # nobody knows a class that was never there


@pytest.mark.slow
def test_sets_of_a_regression_are_searched(tmp_path, tfds_dir):
    config = "configs/worst_case.py:diabetes,seeds=3,search=finetune+gradient_ascent_plus"
    flags = ("--config.methods=('finetune',)", "--config.num_references=16")
    run = cli.command(tmp_path / "run", *flags, config=config, experiment="worst_case")
    process = cli.run(run, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    oracle = next(r for r in results(tmp_path / "run")["summary"] if r["method"] == "oracle")
    assert oracle["gap: worst:finetune"] < oracle["gap: random"] < oracle["gap: gap:finetune"]


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (CONFIG + ",by=colour", (), "by must be 'example', 'class' or one of"),
        (CONFIG, ("--config.size=300.0",), "size must be a share, or a number below"),
        (CONFIG, ("--config.size=0.0",), "size must be a share, or a number below"),
        (CONFIG.replace("finetune+random", "tune+random"), (), "searches must be among"),
        (CONFIG, ("--config.ranked=('loss',)",), "ranked must be among"),
        (CONFIG, ("--config.search.mode=adjoint",), "mode must be one of"),
        (CONFIG, ("--config.moved=('random',)",), "moved must be among"),
        (CONFIG, ("--config.num_originals=3",), "num_originals must be >= 4, got 3"),
        (CONFIG, ("--config.num_seeds=1",), "num_seeds must be >= 2, got 1"),
        (CONFIG, ("--config.size=290",), "the number of examples (10), got 32"),
        (CONFIG, ("--config.train.batch_size=151",), "the number of examples (150), got 151"),
    ],
)
def test_bad_input_is_one_line(config, flags, message, tmp_path, tfds_dir):
    flags = (*FLAGS, *flags)
    with pytest.raises(ValueError) as caught:
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=config, experiment="worst_case")
    assert message in str(caught.value)


def test_moved_sets_are_those_of_another_seed(monkeypatch):
    from ml_collections import ConfigDict

    config = ConfigDict(
        {"num_seeds": 3, "searches": ("finetune",), "easiest": (), "ranked": ()}
        | {"moved": ("gap:finetune",)}
    )
    found = {"worst": np.eye(3, 5), "gap": np.eye(3, 5, k=1)}
    monkeypatch.setattr(worst_case, "search", lambda stage, name, kind, *_: found[kind])
    monkeypatch.setattr(worst_case, "rankings", lambda stage: {})
    stage = worst_case.Stage(config, *[None] * 3, 5, np.arange(5), 1, None, None, np.zeros(5))
    chosen = worst_case.choose(stage, np.random.default_rng(0))
    assert list(chosen) == ["random", "worst:finetune", "gap:finetune", "moved:gap:finetune"]
    np.testing.assert_array_equal(chosen["moved:gap:finetune"], found["gap"][[2, 0, 1]])
    np.testing.assert_array_equal(chosen["random"].sum(1), [1, 1, 1])


def test_the_interval_is_students():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    mean, low, high = worst_case_report.interval(values)
    reach = 3.182446 * values.std(ddof=1) / 2  # the 97.5 % point with three degrees of freedom
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - reach, 2.5 + reach), rel=1e-6)
