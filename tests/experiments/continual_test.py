import json

import pytest

from configs import continual as config_lib
from tests.experiments import cli

CONFIG = "configs/continual.py:digits,stream=interleaved,method=acu_gram+acu_inverse+ascent"
FLAGS = ("--config.num_features=64", "--config.head.retrain_epochs=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tfds_dir):
    workdir = tmp_path_factory.mktemp("continual") / "run"
    command = cli.command(workdir, *FLAGS, config=CONFIG, experiment="continual")
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    return workdir, process, command


def rows_of(workdir):
    results = json.loads((workdir / "results.json").read_text())
    return {row["method"]: row for row in results["rows"]}


def test_closed_form_heads_equal_the_exact_one_and_gradients_do_not(finished):
    rows = rows_of(finished[0])
    assert set(rows) == {"resolve", "retrain", "acu_gram", "acu_inverse", "ascent"}
    for method in ("acu_gram", "acu_inverse"):
        assert rows[method]["agreement"] == 1
        assert rows[method]["distance"] < 1e-7
        assert rows[method]["keeps"] == "nothing"
        assert rows[method]["test_accuracy"] > 0.85
    assert rows["ascent"]["agreement"] < 0.9
    assert rows["resolve"]["keeps"] == "all rows"


def test_every_deletion_has_a_certificate_and_they_form_a_chain(finished):
    workdir, *_ = finished
    for method in ("acu_gram", "acu_inverse"):
        paths = sorted((workdir / "certificates").glob(f"interleaved-{method}-*.json"))
        records = [json.loads(path.read_text()) for path in paths]
        assert len(records) == 10
        assert all(record["removed"]["count"] > 0 for record in records)
        assert len({record["after"] for record in records}) == 10
        if method == "acu_gram":
            assert all(record["distance_bound"] < 1e-6 for record in records)


def test_it_writes_the_report_and_resumes(finished, tfds_dir):
    workdir, process, command = finished
    assert "agreement %" in process.stdout_text and "Warning" not in process.stderr_text
    assert (workdir / "plots" / "interleaved.png").exists()
    before = (workdir / "results.json").read_text()
    assert cli.run(command, tfds_dir).returncode == 0
    assert (workdir / "results.json").read_text() == before


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (CONFIG + "+sdd", (), "methods must be among"),
        ("configs/continual.py:digits,stream=river", (), "streams must be among"),
    ],
)
def test_bad_input_is_one_line(config, flags, message, tmp_path, tfds_dir):
    with pytest.raises(ValueError, match=message):
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=config, experiment="continual")


def test_config_strings():
    config = config_lib.get_config("fashion_mnist,stream=adversarial,train=50,method=acu_gram")
    assert config.dataset == "fashion_mnist" and config.streams == ("adversarial",)
    assert config.methods == ("acu_gram",) and config.num_train == 50


@pytest.mark.slow
@pytest.mark.realdata
def test_a_backbone_trained_on_the_base_phase_serves_fashion_mnist(
    tmp_path, tfds_dir, real_data_dir
):
    command = cli.command(
        tmp_path / "run",
        f"--data_dir={real_data_dir}",
        "--config.backbone=trained",
        "--config.num_features=128",
        "--config.train.num_epochs=1",
        config="configs/continual.py:fashion_mnist,train=2000,test=1000,stream=class_incremental,"
        "method=acu_gram+acu_inverse",
        experiment="continual",
    )
    process = cli.run(command, tfds_dir, quick=False)
    assert process.returncode == 0, process.stderr_text
    rows = rows_of(tmp_path / "run")
    for method in ("acu_gram", "acu_inverse"):
        assert rows[method]["agreement"] == 1 and rows[method]["test_accuracy"] > 0.6
