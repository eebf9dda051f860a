"""Slow runs of the main job, each from beginning to end and by itself."""

import json
import re

import pytest

from configs import unlearn as unlearn_config
from tests.experiments import cli


@pytest.mark.realdata
@pytest.mark.slow
def test_ssd_forgets_a_class_of_fashion_mnist(tmp_path, tfds_dir, real_data_dir):
    """One seed and one epoch of the README's run, on a third of the images."""
    process = cli.run(
        cli.command(
            tmp_path / "run",
            f"--data_dir={real_data_dir}",
            "--config.train.num_epochs=1",
            "--config.rounding.num_perturbed=0",
            config="configs/unlearn.py:fashion_mnist,train=20000,method=ssd,seeds=1",
        ),
        tfds_dir,
        quick=False,
    )
    assert process.returncode == 0, process.stderr_text
    rows = {
        row["method"]: row
        for row in json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    }
    assert rows["original"]["forget_accuracy"] > 0.8
    assert rows["ssd"]["forget_accuracy"] < 0.1
    assert rows["ssd"]["retain_accuracy"] > rows["original"]["retain_accuracy"] - 0.02


@pytest.mark.slow
def test_every_method_runs_to_its_end(tmp_path, tfds_dir):
    flags = ("--config.train.num_epochs=2", "--config.rounding.num_perturbed=0")
    every = "configs/unlearn.py:digits,model=mlp,method=all,seeds=1"
    command = cli.command(tmp_path / "run", *flags, config=every)
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    summary = json.loads((tmp_path / "run" / "results.json").read_text())["summary"]
    assert [row["method"] for row in summary] == ["oracle", "original", *unlearn_config.METHODS]


@pytest.mark.slow
def test_what_the_documentation_brings_of_its_own_runs_by_import_paths(tmp_path, tfds_dir):
    howto = (cli.ROOT / "docs" / "howto.md").read_text()
    for name in ("my_models", "my_unlearners", "my_data"):
        (code,) = re.findall(rf"```python\n(# {name}.py.*?)```", howto, re.DOTALL)
        (tmp_path / f"{name}.py").write_text(code)
    config = (
        "configs/unlearn.py:digits,model=my_models:Small,seeds=1,"
        "method=finetune_last+ssd+acu+my_unlearners:uniform_target"
    )
    options = (
        "--config.train.num_epochs=8",
        "--config.model.options.width=128",
        "--config.unlearn.uniform_target.learning_rate=3e-3",
    )
    command = cli.command(tmp_path / "run", *options, config=config)
    process = cli.run(command, tfds_dir, PYTHONPATH=str(tmp_path))
    assert process.returncode == 0, process.stderr_text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    by_method = {row["method"]: row for row in results["summary"]}
    for method in ("oracle", "finetune_last", "ssd", "acu", "uniform_target"):
        assert by_method[method]["test_accuracy"] > 0.85, method
        assert by_method[method]["forget_accuracy"] < 0.3, method
    config = "configs/unlearn.py:my_data:wine,forget=class:1,seeds=1,method=finetune+acu"
    process = cli.run(
        cli.command(tmp_path / "wine", config=config), tfds_dir, PYTHONPATH=str(tmp_path)
    )
    assert process.returncode == 0, process.stderr_text
    results = json.loads((tmp_path / "wine" / "results.json").read_text())
    by_method = {row["method"]: row for row in results["summary"]}
    assert by_method["original"]["forget_accuracy"] > 0.9
    assert by_method["acu"]["forget_accuracy"] < 0.1 and by_method["acu"]["test_accuracy"] > 0.9
