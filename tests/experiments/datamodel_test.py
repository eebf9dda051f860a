import json
import signal
import time

import pytest

from configs import datamodel as config_lib
from tests.experiments import cli

CONFIG = "configs/datamodel.py:digits,train=200,test=60,method=none"
UNLEARN = (
    "configs/datamodel.py:digits,train=200,test=60,attributor=lasso,"
    "method=oracle_matching+dmm,forget=component:1:4/2"
)
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


@pytest.mark.slow
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
    kill_and_go_on(command(tmp_path / "killed"), tmp_path, tfds_dir, "subsets_*.json", 3)


def kill_and_go_on(command, tmp_path, tfds_dir, pattern, enough):
    """A run killed with so many files of the pattern finished ends as one that was left alone."""
    killed = tmp_path / "killed"
    process = cli.start(command, tfds_dir)
    deadline = time.time() + 240
    while len(list((killed / "rows").glob(pattern))) < enough and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = list((killed / "rows").glob("*.json"))
    assert enough <= len(finished) and not (killed / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in finished}
    process = cli.run(command, tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert {path: path.stat().st_mtime_ns for path in finished} == before
    assert numbers(killed) == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_one_process_goes_on_from_the_chunks_of_two(tmp_path, tfds_dir):
    flags = ("--config.attributors=('ridge',)",)
    process = cli.run(command(tmp_path / "whole", *flags), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    shared, port = tmp_path / "shared", cli.free_port()
    addresses = (f"--coordinator_address=localhost:{port}", "--num_processes=2")
    processes = [
        cli.start(command(shared, *flags, *addresses, f"--process_id={i}"), tfds_dir)
        for i in range(2)
    ]
    deadline = time.time() + 240
    while len(list((shared / "rows").glob("subsets_*.json"))) < 2 and time.time() < deadline:
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()
    before = {path: path.stat().st_mtime_ns for path in (shared / "rows").glob("*.json")}
    assert len(before) >= 2 and not (shared / "results.json").exists()
    process = cli.run(command(shared, *flags), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    # On other devices sums round differently.
    for row, whole in zip(numbers(shared), numbers(tmp_path / "whole"), strict=True):
        assert row["training_lds"] == pytest.approx(whole["training_lds"], abs=0.02)


FEW = (
    "--config.num_originals=40",
    "--config.ensemble.num_models=256",
    "--config.train.num_epochs=30",
    "--config.influence.damping=0.1",
)


@pytest.mark.slow
def test_populations_are_unlearned_and_judged(tmp_path, tfds_dir):
    process = cli.run(command(tmp_path / "whole", *FEW, config=UNLEARN), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert "KLoM wants 100 models on each side, got 40" in process.stdout_text
    summary = {r["method"]: r for r in results(tmp_path / "whole")["summary"] if "method" in r}
    rows = results(tmp_path / "whole")["rows"]
    for name in ("component:1:4/2",):
        chosen = {r["method"]: r for r in rows if r["forget_set"] == name and r["chosen"]}
        assert set(chosen) == set(summary)
        assert chosen["oracle"]["klom_forget"] < chosen["original"]["klom_forget"]
        assert chosen["oracle_matching"]["klom_forget"] < chosen["original"]["klom_forget"]
        assert chosen["original"]["compute"] == 0 < chosen["dmm"]["compute"] < 1
        assert all(0 <= r["u_lira_auc"] <= 1 for r in chosen.values())
    assert summary["original"]["u_lira_auc"] > 0.6
    # Every original gives the digit up a little where the datamodels say so.
    assert summary["dmm"]["effect: component:1:4/2"] > 0.1
    for figure in ("compute", "klom", "roc", "margins"):
        assert (tmp_path / "whole" / "plots" / f"{figure}.png").stat().st_size > 5000
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "KLoM by forget set" in page and "attribution" in page


@pytest.mark.slow
def test_killed_populations_go_on(tmp_path, tfds_dir):
    config = UNLEARN.replace("oracle_matching", "dm_direct+dmm_ekfac+ssd") + "+class:3"
    process = cli.run(command(tmp_path / "whole", *FEW, config=config), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    killed = command(tmp_path / "killed", *FEW, config=config)
    kill_and_go_on(killed, tmp_path, tfds_dir, "class-3_*.json", 5)


@pytest.mark.slow
def test_models_spread_over_devices_give_the_same_audits(tmp_path, tfds_dir):
    run = lambda name: command(tmp_path / name, *FEW, config=UNLEARN)
    one = cli.run(run("one"), tfds_dir)
    four = cli.run(run("four"), tfds_dir, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert "on 4 x" in four.stderr_text
    assert one.returncode == four.returncode == 0, four.stderr_text
    alone, spread = (results(tmp_path / name)["summary"] for name in ("one", "four"))
    for a, b in zip(alone, spread, strict=True):
        for column in ("klom_retain", "u_lira_auc", "training_lds"):
            # Batched products round differently, and training carries that on.
            assert b.get(column, 0) == pytest.approx(a.get(column, 0), abs=0.1), column


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (CONFIG + ",attributor=laso", (), "attributors must be among"),
        (CONFIG.replace("none", "dnn"), (), "methods must be among"),
        (UNLEARN + "+component:1:9/x", (), "forget must be like component:1:10"),
        (UNLEARN + "+random:900", (), "count must lie in [1, 200), got 900"),
        (CONFIG, ("--config.attributors=()",), "attributors, or methods and forget_sets, must"),
        (CONFIG, ("--config.ensemble.share=1.0",), "ensemble.share must be a number in (0, 1)"),
        (CONFIG, ("--config.ensemble.num_held_out=1",), "num_held_out must be an integer in [2,"),
        (UNLEARN, ("--config.num_originals=3",), "num_originals must be >= 4, got 3"),
        (CONFIG, ("--config.train.batch_size=150",), "the number of examples (100), got 150"),
        (UNLEARN + "+component:1:190", (), "the number of examples (10), got 20"),
    ],
)
def test_bad_input_is_one_line(config, flags, message, tmp_path, tfds_dir):
    flags = (*FLAGS, *flags)
    with pytest.raises(ValueError) as caught:
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=config, experiment="datamodel")
    assert message in str(caught.value)
