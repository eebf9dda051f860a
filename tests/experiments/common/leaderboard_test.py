import csv
import json
import types

import pytest

from configs import leaderboard as config_lib
from experiments.common import leaderboard
from experiments.common.evaluations import classification
from tests.experiments import cli


def summary(gaps, ratios):
    return [
        {
            "method": m,
            "average_gap": g,
            "average_gap_std": 0.01,
            "seconds_ratio": r,
            "sensitive": m == "scrub" and g == 0.3,
        }
        for m, g, r in zip(("original", "oracle", "ssd", "scrub"), gaps, ratios, strict=True)
    ]


def test_methods_are_ranked_by_their_mean_gap_with_the_oracle_first():
    rows = leaderboard.rank(
        {
            "class:3": summary([0.5, 0.0, 0.1, 0.3], [1, 1, 0.01, 0.5]),
            "random:0.1": summary([0.2, 0.02, 0.4, 0.1], [1, 1, 0.04, 0.5]),
        }
    )
    assert [row["method"] for row in rows] == ["oracle", "scrub", "ssd", "original"]
    ssd = rows[2]
    assert ssd["gap"] == pytest.approx(0.25)
    assert ssd["gap: random:0.1"] == 0.4
    assert ssd["seconds_ratio"] == pytest.approx(0.02)  # geometric
    # Sensitive is what is so on one of the forget sets.
    shown = leaderboard.columns(rows, ["class:3"], classification.COLUMNS)
    assert shown[0] == ("method", ["oracle", "scrub *", "ssd", "original"])
    assert shown[1] == ("class:3", ["0.0 ± 1.0", "30.0 ± 1.0", "10.0 ± 1.0", "50.0 ± 1.0"])
    assert shown[2] == ("mean", ["1.0", "20.0", "25.0", "35.0"])


def test_scenarios_of_a_kind_are_averaged_and_printed():
    def seen(gap, seconds, values):
        own = [row | {"seconds": seconds} for row in summary([gap] * 4, [1] * 4)]
        return [row | {"test_accuracy": v} for row, v in zip(own, values, strict=True)]

    rows = leaderboard.rank(
        {
            "class:3": seen(float("nan"), 2.0, (0.9, 0.8, 0.5, 0.1)),
            "random:0.1": seen(0.1, 9.0, (0.0, 0.0, 0.0, 0.0)),
            "class:5": seen(0.1, 4.0, (0.7, 0.8, 0.6, 0.5)),
        },
        by_kind=("test_accuracy",),
    )
    # Nothing to rank by: the oracle first, the others in their order.
    assert [row["method"] for row in rows] == ["oracle", "original", "ssd", "scrub"]
    assert rows[1]["test_accuracy: class"] == pytest.approx(0.8)
    assert rows[1]["test_accuracy: class_std"] == pytest.approx(0.02**0.5)
    assert "test_accuracy: random" not in rows[1]  # it is one
    shown = leaderboard.tables(rows, classification.COLUMNS)
    assert list(shown) == ["class"]
    (_, names), (header, cells), (_, times) = shown["class"]
    assert names[2] == "ssd" and header == classification.COLUMNS.units["test_accuracy"][0]
    assert cells[2] == "55.0 ± 7.1" and times[2] == "3 s"


def test_without_an_oracle_there_is_a_table_and_no_frontier(tmp_path):
    nothing = float("nan")
    rows = leaderboard.rank({"class:3": summary([nothing] * 4, [nothing] * 4)})
    assert leaderboard.columns(rows, ["class:3"], classification.COLUMNS)[-1] == ("time", ["–"] * 4)
    written = {}
    run = types.SimpleNamespace(
        workdir=tmp_path,
        write_results=lambda rows, summary, page, extra: written.update(page=page),
        write_figures=written.update,
    )
    config = config_lib.get_config("digits,model=mlp,method=ssd+scrub,forget=class:3")
    leaderboard.report(config, run, rows, ["class:3"])
    assert list(written) == ["page"] and "<img" not in written["page"]


def test_config_strings_name_scenarios():
    config = config_lib.get_config("digits,model=mlp,forget=class:3+5/random:0.2,seeds=2")
    assert config.scenarios == ("class:3+5", "random:0.2") and config.num_seeds == 2
    assert config_lib.get_config().num_seeds == 5 and len(config_lib.get_config().scenarios) == 3
    assert config_lib.get_config("method=ssd").dataset == "digits"
    assert config_lib.get_config("fashion_mnist").dataset == "fashion_mnist"
    larger = config_lib.get_config("cifar10,resnet18")
    assert (larger.dataset, larger.model.name) == ("cifar10", "resnet18")


def test_a_bad_scenario_fails_before_the_first_is_run(tmp_path, tfds_dir):
    config = "configs/leaderboard.py:digits,model=mlp,forget=class:3/class:33"
    with pytest.raises(ValueError, match="class:33"):
        cli.execute(tmp_path / "run", tfds_dir, config=config)
    assert not (tmp_path / "run" / "class-3").exists()


@pytest.mark.slow
def test_it_runs_every_scenario_and_resumes(tmp_path, tfds_dir):
    command = cli.command(
        tmp_path / "run",
        *cli.SMALL,
        config="configs/leaderboard.py:digits,model=mlp,seeds=1,method=ssd+finetune,"
        "forget=class:3/random:0.1",
    )
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert "Leaderboard: digits (mlp)" in process.stdout_text
    for name in ("class-3", "random-0.1"):
        assert (tmp_path / "run" / name / "report.html").exists()
    with open(tmp_path / "run" / "results.csv") as file:
        methods = {row["method"] for row in csv.DictReader(file)}
    assert methods == {"oracle", "original", "ssd", "finetune"}
    before = (tmp_path / "run" / "results.json").read_text()
    assert json.loads(before)["scenarios"] == ["class:3", "random:0.1"]
    assert cli.run(command, tfds_dir).returncode == 0
    assert (tmp_path / "run" / "results.json").read_text() == before
