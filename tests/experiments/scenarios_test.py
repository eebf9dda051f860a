"""The scenarios beyond 'forget these labelled images', end to end and small."""

import json
from pathlib import Path

import pytest

from configs import corrective, identity, regression, unlearn
from tests.experiments import cli


def results_of(workdir, process):
    assert process.returncode == 0, process.stderr_text
    results = json.loads((workdir / "results.json").read_text())
    return results, {row["method"]: row for row in results["summary"]}


@pytest.mark.slow
def test_poison_is_corrected_by_its_oracle_and_not_by_exact_retraining(tmp_path, tfds_dir):
    """Half of the poison is known: retraining without it keeps the back door."""
    command = cli.command(
        tmp_path / "run",
        "--config.columns=('unseen_accuracy',)",
        config="configs/unlearn.py:digits,model=mlp,seeds=1,method=retrain,forget=poison:200:0.5",
    )
    process = cli.run(command, tfds_dir)
    results, rows = results_of(tmp_path / "run", process)
    sizes = results["sizes"]
    assert sizes["forget"] == 100 and sizes["retain"] - sizes["oracle"] == 100
    assert rows["oracle"]["unseen_accuracy"] > 0.85
    assert rows["original"]["unseen_accuracy"] < 0.3
    assert rows["retrain"]["unseen_accuracy"] < 0.5
    assert rows["retrain"]["test_accuracy"] > 0.9
    assert "unseen %" in process.stdout_text
    assert "are corrupted" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_subclass_is_forgotten_within_its_superclass(tmp_path, tfds_dir):
    command = cli.command(
        tmp_path / "run",
        "--config.train.num_epochs=5",
        config="configs/unlearn.py:digits,model=mlp,seeds=1,method=finetune,"
        "superclasses=0+2+4+6+8/1+3+5+7+9,forget=field:subclass:3",
    )
    results, rows = results_of(tmp_path / "run", cli.run(command, tfds_dir))
    assert 100 < results["sizes"]["forget"] < 160
    # An odd digit never seen is not wholly lost: others look like it.
    assert 0.05 < rows["oracle"]["forget_accuracy"] < rows["original"]["forget_accuracy"]


@pytest.mark.slow
def test_regression_forgets_a_band(tmp_path, tfds_dir):
    command = cli.command(
        tmp_path / "run",
        config="configs/regression.py:diabetes,seeds=2,method=blindspot+finetune+ssd",
    )
    process = cli.run(command, tfds_dir)
    _, rows = results_of(tmp_path / "run", process)
    assert "forget error" in process.stdout_text and "Wasserstein" in process.stdout_text
    assert rows["oracle"]["forget_error"] > rows["original"]["forget_error"] + 0.1
    assert rows["blindspot"]["average_gap"] < rows["finetune"]["average_gap"]
    assert rows["original"]["relearn_steps"] == 0 < rows["oracle"]["relearn_steps"]
    assert (tmp_path / "run" / "plots" / "error_gaps.png").exists()


def test_tasks_must_fit_the_targets(tmp_path, tfds_dir):
    for config, task in ((cli.DEFAULT, "regression"), ("configs/regression.py", "classification")):
        with pytest.raises(ValueError, match="task must fit the targets of"):
            cli.execute(tmp_path / task, tfds_dir, f"--config.task={task}", config=config)


def test_config_families_keep_what_the_string_says():
    config = corrective.get_config("digits,model=mlp,seeds=2,forget=poison:9:0.5,method=ssd")
    assert config.scenarios == ("poison:9:0.5",) and config.methods == ("ssd",)
    assert config.num_seeds == 2 and config.rank == "corrective_gap"
    assert len(corrective.get_config().scenarios) == 6
    config = regression.get_config("diabetes,forget=band:200:350,seeds=1")
    assert config.forget == "band:200:350" and config.task == "regression"
    assert identity.get_config().dataset == "spoken_digits"
    assert identity.get_config("image_folder,forget=identity:2").forget == "identity:2"
    counted = unlearn.get_config("digits,train=500,test=100")
    assert (counted.num_train, counted.num_test) == (500, 100)
    with pytest.raises(ValueError, match="train must be a positive integer, got 'x'"):
        unlearn.get_config("digits,train=x")
    with pytest.raises(ValueError, match="superclasses must be like"):
        unlearn.get_config("digits,superclasses=a+b")


@pytest.mark.slow
@pytest.mark.realdata
def test_a_speaker_is_forgotten_from_the_real_recordings(tmp_path, tfds_dir, real_data_dir):
    source = Path(real_data_dir).parent / "spoken_digits" / "recordings.zip"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    command = cli.command(
        tmp_path / "run",
        f"--config.source={source}",
        "--config.train.num_epochs=6",
        "--config.num_train=1500",
        config="configs/identity.py:spoken_digits,model=mlp,seeds=1,method=finetune",
    )
    process = cli.run(command, tfds_dir)
    results, rows = results_of(tmp_path / "run", process)
    assert results["sizes"]["unseen"] == 500
    assert rows["oracle"]["nomus"] > rows["original"]["nomus"]
    assert rows["oracle"]["forget_accuracy"] < rows["original"]["forget_accuracy"] - 0.1
    assert "NoMUS" in process.stdout_text
