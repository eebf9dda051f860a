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
def test_attributors_predict_models_that_they_never_saw(tmp_path, tfds_dir):
    process = cli.run(command(tmp_path / "run"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    rows = {row["attributor"]: row for row in results(tmp_path / "run")["rows"]}
    assert set(rows) == set(config_lib.ATTRIBUTORS)
    for name, row in rows.items():
        assert row["training_low"] <= row["training_lds"] <= row["training_high"]
        assert row["training_low"] > 0.05, name  # chance is 0
    assert "training LDS" in process.stdout_text
    assert (tmp_path / "run" / "report.html").exists()


def wait_for(run, pattern, enough):
    """Until a run has finished so many files of the pattern."""
    deadline = time.time() + 240
    while len(list((run / "rows").glob(pattern))) < enough and time.time() < deadline:
        time.sleep(0.02)


def finished(run):
    """Files by the time when they were written."""
    return {path: path.stat().st_mtime_ns for path in (run / "rows").glob("*.json")}


# For what does not ask how well anything is predicted or forgotten.
SMALL = (
    "--config.ensemble.num_models=48",
    "--config.ensemble.num_held_out=16",
    "--config.ensemble.chunk=16",
    "--config.train.num_epochs=4",
)


@pytest.mark.slow
def test_one_process_goes_on_from_the_chunks_of_two(tmp_path, tfds_dir):
    flags = (*SMALL, "--config.attributors=('ridge',)")
    process = cli.run(command(tmp_path / "whole", *flags), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    shared, port = tmp_path / "shared", cli.free_port()
    addresses = (f"--coordinator_address=localhost:{port}", "--num_processes=2")
    processes = [
        cli.start(command(shared, *flags, *addresses, f"--process_id={i}"), tfds_dir)
        for i in range(2)
    ]
    wait_for(shared, "subsets_*.json", 2)
    for process in processes:
        process.kill()
        process.communicate()
    before = finished(shared)
    assert len(before) >= 2 and not (shared / "results.json").exists()
    process = cli.run(command(shared, *flags), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert before.items() <= finished(shared).items()
    # On other devices sums round differently.
    for row, whole in zip(numbers(shared), numbers(tmp_path / "whole"), strict=True):
        assert row["training_lds"] == pytest.approx(whole["training_lds"], abs=0.02)


FEW = (
    "--config.num_originals=40",
    "--config.ensemble.num_models=256",
    "--config.train.num_epochs=30",
    "--config.influence.damping=0.1",
    "--config.spaces.oracle_matching.learning_rate=(3e-4,1e-3)",
    "--config.spaces.oracle_matching.num_epochs=(60,)",
    "--config.spaces.dmm.learning_rate=(1e-3,3e-3)",
    "--config.spaces.dmm.num_epochs=(20,)",
)


@pytest.mark.slow
def test_populations_are_unlearned_and_judged_the_same_on_one_device_and_four(tmp_path, tfds_dir):
    run = lambda name: command(tmp_path / name, *FEW, config=UNLEARN)
    process = cli.run(run("one"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert "KLoM wants 100 models on each side, got 40" in process.stdout_text
    alone = results(tmp_path / "one")["summary"]
    summary = {r["method"]: r for r in alone if "method" in r}
    name = "component:1:4/2"
    rows = [r for r in results(tmp_path / "one")["rows"] if r["forget_set"] == name]
    assert len([r for r in rows if r["method"] == "dmm"]) == 2
    chosen = {r["method"]: r for r in rows if r["chosen"]}
    assert set(chosen) == set(summary)
    assert chosen["oracle"]["klom_forget"] < chosen["original"]["klom_forget"]
    assert chosen["oracle_matching"]["klom_forget"] < chosen["original"]["klom_forget"]
    assert chosen["original"]["compute"] == 0 < chosen["dmm"]["compute"] < 1
    assert all(0 <= r["u_lira_auc"] <= 1 for r in chosen.values())
    assert summary["original"]["u_lira_auc"] > 0.6
    # Every original gives the digit up a little where the datamodels say so.
    assert summary["dmm"][f"effect: {name}"] > 0.1
    for figure in ("compute", "klom", "roc", "margins"):
        assert (tmp_path / "one" / "plots" / f"{figure}.png").stat().st_size > 5000
    page = (tmp_path / "one" / "report.html").read_text()
    assert "KLoM by forget set" in page and "attribution" in page

    four = cli.run(run("four"), tfds_dir, XLA_FLAGS="--xla_force_host_platform_device_count=4")
    assert four.returncode == 0, four.stderr_text
    assert "on 4 x" in four.stderr_text
    for a, b in zip(alone, results(tmp_path / "four")["summary"], strict=True):
        for column in ("klom_retain", "u_lira_auc", "training_lds"):
            # Batched products round differently, and training carries that on.
            assert b.get(column, 0) == pytest.approx(a.get(column, 0), abs=0.1), column


@pytest.mark.slow
def test_runs_that_are_killed_and_killed_again_go_on(tmp_path, tfds_dir):
    """Once while the ensemble is trained, once while a population is unlearned."""
    config = UNLEARN.replace("oracle_matching+dmm", "dm_direct+dmm_ekfac+ssd")
    config = config.replace("lasso", "lasso+trak") + "+class:3"
    flags = (
        *SMALL,
        "--config.num_originals=8",
        "--config.spaces.dmm_ekfac.learning_rate=(1e-3,)",
        "--config.spaces.dmm_ekfac.num_epochs=(2,)",
        "--config.spaces.ssd.alpha=(1.0,10.0)",
        "--config.spaces.ssd.dampening=(1.0,)",
    )
    run = lambda name: command(tmp_path / name, *flags, config=config)
    process = cli.run(run("whole"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    killed, before = tmp_path / "killed", {}
    for pattern, enough in (("subsets_*.json", 2), ("class-3_*.json", 4)):
        process = cli.start(run("killed"), tfds_dir)
        wait_for(killed, pattern, enough)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert before.items() <= finished(killed).items()
        before = finished(killed)
        assert enough <= len(before) and not (killed / "results.json").exists()
    process = cli.run(run("killed"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert before.items() <= finished(killed).items()
    assert numbers(killed) == numbers(tmp_path / "whole")


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
