import json
import signal
import time

import pytest

from configs import datamodel as config_lib
from tests.experiments import cli

CONFIG = "configs/datamodel.py:digits,train=200,test=60"
FLAGS = (
    "--config.ensemble.num_models=384",
    "--config.ensemble.num_held_out=40",
    "--config.ensemble.chunk=64",
    "--config.num_checkpoints=3",
    "--config.train.num_epochs=12",
    "--config.train.batch_size=20",
    "--config.model.options.hidden=(16,)",
    "--config.trak.num_projections=64",
    # Trained for so short, the models are no minima: the Hessian has negative eigenvalues.
    "--config.influence.damping=1.0",
)


def command(workdir, *flags, config=CONFIG):
    return cli.command(workdir, *FLAGS, *flags, config=config, experiment="datamodel")


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def numbers(workdir):
    """All but how long it took."""
    rows = results(workdir)["rows"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_attributors_predict_models_that_they_never_saw_and_a_killed_run_goes_on(
    tmp_path, tfds_dir
):
    process = cli.run(command(tmp_path / "whole"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    rows = {row["attributor"]: row for row in results(tmp_path / "whole")["rows"]}
    assert set(rows) == set(config_lib.ATTRIBUTORS)
    for name, row in rows.items():
        assert row["training_low"] <= row["training_lds"] <= row["training_high"]
        assert row["training_low"] > 0.05, name  # chance is 0
    assert "training LDS" in process.stdout_text
    assert (tmp_path / "whole" / "report.html").exists()

    killed = tmp_path / "killed"
    process = cli.start(command(killed), tfds_dir)
    deadline = time.time() + 120
    while len(list((killed / "rows").glob("subsets_*.json"))) < 3 and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = list((killed / "rows").glob("*.json"))
    assert 3 <= len(finished) and not (killed / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in finished}
    process = cli.run(command(killed), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert numbers(killed) == numbers(tmp_path / "whole")


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (CONFIG + ",attributor=laso", (), "attributors must be among"),
        (CONFIG, ("--config.ensemble.share=1.0",), "share must lie in (0, 1)"),
        (CONFIG, ("--config.ensemble.num_held_out=1",), "num_held_out must be >= 2"),
    ],
)
def test_bad_input_is_one_line(config, flags, message, tmp_path, tfds_dir):
    process = cli.run(command(tmp_path / "run", *flags, config=config), tfds_dir)
    assert process.returncode != 0 and message in cli.error_lines(process)[0]
