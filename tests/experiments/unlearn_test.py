import csv
import json
import re
import time
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import unlearn as unlearn_config
from experiments import unlearn
from experiments.common import runner
from experiments.common.fit import take_originals
from tests.experiments import cli
from unlearnjax.report import table
from unlearnjax.training.checkpoints import Checkpoints

# Enough where all that is asked is how a run begins, ends or is spread.
TWO = cli.DEFAULT.replace("+".join(cli.METHODS), "finetune+ssd")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tfds_dir):
    """One small run of every method, to its end."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    process = cli.run(cli.command(workdir, *cli.SMALL), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    return workdir, process


def test_it_prints_the_table_and_writes_every_file(finished):
    workdir, process = finished
    for name in ("oracle", "original", *cli.METHODS):
        assert re.search(rf"│ {name} +│", process.stdout_text), process.stdout_text
    for header in ("forget %", "retain %", "test %", "MIA %", "time"):
        assert header in process.stdout_text
    page = (workdir / "report.html").read_text()
    for header in ("FLOPs", "memory", "compiling", "time before", "kept"):
        assert f"<th>{header}</th>" in page
    files = {path.name for path in workdir.iterdir()}
    assert files >= {"results.json", "results.csv", "report.html", "config.json", "checkpoints"}
    assert list(workdir.glob("tensorboard/*/events*"))
    assert (workdir / "plots" / "fisher_shares.png").exists()  # for SSD
    assert "━" in process.stderr_text  # the progress bar


def test_results_are_complete_and_consistent(finished):
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results["schema"] == 1 and results["experiment"] == "unlearn"
    assert results["config"]["forget"] == "class:3" and results["environment"]["jax"]
    methods = ["original", "oracle", *cli.METHODS]
    rows = [row["method"] for row in results["rows"] if not row["perturbed"]]
    assert sorted(rows) == sorted(methods)
    perturbed = [row["method"] for row in results["rows"] if row["perturbed"] == 1]
    assert perturbed == list(cli.METHODS)
    for row in results["rows"]:
        for column in (
            "forget_accuracy",
            "retain_loss",
            "test_accuracy",
            "mia",
            "seconds",
            "compile_seconds",
            "flops",
            "peak_bytes",
        ):
            assert np.isfinite(row[column]), (row["method"], column)
    with open(workdir / "results.csv") as file:
        table = list(csv.DictReader(file))
    assert [r["method"] for r in table] == [r["method"] for r in results["rows"]]
    by_method = {row["method"]: row for row in results["summary"]}
    ssd, oracle = by_method["ssd"], by_method["oracle"]
    assert ssd["test_accuracy_gap"] == pytest.approx(ssd["test_accuracy"] - oracle["test_accuracy"])
    assert ssd["flops_ratio"] == pytest.approx(ssd["flops"] / oracle["flops"])
    assert results["sizes"]["forget"] + results["sizes"]["retain"] == 1294
    # Retraining on the retain set costs what the oracle cost.
    assert by_method["retrain"]["flops_ratio"] == pytest.approx(1, rel=0.05)


def test_methods_run_again_from_originals_moved_as_rounding_moves_them(finished):
    workdir, _ = finished
    for method, least in (("finetune", 1e-8), ("retrain", 0.0)):  # retraining looks at no original
        before, after = (
            np.load(workdir / "rows" / f"{method}_seed0{suffix}.npz")["predictions"]
            for suffix in ("", "_perturbed1")
        )
        apart = np.abs(after - before).max()
        assert least <= apart <= 1e-2 and (apart > 0) == (least > 0), method
    saved = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert "finetune_seed0" in saved and not any("perturbed" in name for name in saved)


@pytest.mark.slow
def test_rows_have_the_mean_of_all_oracles_but_their_own():
    labels = [("original", 0), ("oracle", 0), ("oracle", 1), ("npo", 1)]
    rows = [{"method": method, "seed": seed, "kept": 7} for method, seed in labels]
    ask = lambda oracle, arrays: {"verdict": oracle * arrays["x"]}
    observed = [{"x": 1}, {"x": 10}, {"x": 100}, {"x": 1000}]
    found = unlearn.with_verdicts(rows, observed, ask, iter([(0, 2.0), (1, 4.0)]))
    assert [row.pop("verdict") for row in found] == [3.0, 40.0, 200.0, 3000.0]
    assert found == rows
    alone = unlearn.with_verdicts(rows[1:2], observed[1:2], ask, [(0, 2.0)])
    assert alone == rows[1:2]  # nobody was asked anything
    both = unlearn.with_verdicts(rows[:2], observed[:2], ask, [(0, 2.0)])
    assert both[0]["verdict"] == 2.0 and np.isnan(both[1]["verdict"])


def test_sensitive_methods_get_more_seeds(tmp_path, monkeypatch, tfds_dir):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    # All that spreads at all is sensitive; retraining by perturbed originals does not.
    monkeypatch.setattr(table, "SENSITIVE", 1e-9)
    config = unlearn_config.get_config("digits,model=mlp,seeds=1,method=finetune+retrain")
    config.train.num_epochs = 1
    config.model.options.hidden = (8,)
    config.rounding.update({"size": 0.5, "num_perturbed": 2, "num_seeds": 2})
    run = runner.Run("unlearn", config, tmp_path / "run", None)
    unlearn.scenario(config, run)
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    runs = [(row["method"], row["seed"], row["perturbed"]) for row in rows]
    assert runs == [
        ("original", 0, 0),
        ("oracle", 0, 0),
        *(("finetune", 0, number) for number in range(3)),
        *(("retrain", 0, number) for number in range(3)),
        ("original", 1, 0),
        *(("finetune", 1, number) for number in range(3)),
    ]


def test_a_second_launch_recomputes_nothing_and_gives_the_same(finished, tfds_dir):
    workdir, _ = finished
    before = (workdir / "results.json").read_text()
    rows = {p: p.stat().st_mtime_ns for p in workdir.glob("rows/*")}
    process = cli.run(cli.command(workdir, *cli.SMALL), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    assert (workdir / "results.json").read_text() == before
    assert {p: p.stat().st_mtime_ns for p in workdir.glob("rows/*")} == rows


def test_another_configuration_in_the_same_workdir_is_refused(finished, tfds_dir):
    workdir, _ = finished
    before = (workdir / "results.json").read_text()
    process = cli.run(cli.command(workdir, *cli.SMALL, "--config.unlearn.ssd.alpha=2"), tfds_dir)
    (line,) = cli.error_lines(process)
    assert process.returncode != 0
    assert "config.unlearn.ssd.alpha: stored" in line and "now 2.0" in line
    assert (workdir / "results.json").read_text() == before


def final_models(workdir):
    """The unlearned and trained models, as bytes by name."""
    models = {}
    for folder in sorted((workdir / "checkpoints").iterdir()):
        with Checkpoints(folder) as checkpoints:
            stored = checkpoints.load()
        models[folder.name] = {
            name: value.tobytes()
            for name, value in stored.items()
            if "variables" in name or "params" in name
        }
    return models


@pytest.mark.slow
def test_killed_and_relaunched_gives_the_same_bits(tmp_path, tfds_dir, uninterrupted):
    """Again and again: in the original's training, in the oracle's, and among the methods."""
    workdir = tmp_path / "killed"
    command = cli.command(workdir, *KILL_FLAGS, config=TWO)
    epochs = lambda name: [int(p.name) for p in workdir.glob(f"checkpoints/{name}/[0-9]")]
    for enough in (
        lambda: max(epochs("original_seed0"), default=0) >= 3,
        lambda: max(epochs("oracle_seed0"), default=0) >= 1,
        lambda: (workdir / "rows" / "finetune_seed0.json").exists(),
    ):
        process = cli.start(command, tfds_dir)
        while not enough():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)  # leaves it the processor
        process.kill()  # SIGKILL: no handler, no goodbye
        process.communicate()
        assert not (workdir / "results.json").exists()
    again = cli.run(command, tfds_dir)
    assert again.returncode == 0, again.stderr_text
    expected, actual = uninterrupted, workdir
    assert final_models(actual) == final_models(expected)
    for a, e in zip(
        *(json.loads((w / "results.json").read_text())["rows"] for w in (actual, expected)),
        strict=True,
    ):
        timings = [k for k in a if "seconds" in k]
        assert {k: a[k] for k in a if k not in timings} == {k: e[k] for k in e if k not in timings}


KILL_FLAGS = (
    "--config.train.num_epochs=5",
    "--config.train.checkpoint_every=1",
    "--config.model.options.hidden=(32,)",
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tfds_dir):
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    process = cli.run(cli.command(workdir, *KILL_FLAGS, config=TWO), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    return workdir


def parameters(workdir, name):
    with Checkpoints(workdir / "checkpoints" / name) as checkpoints:
        stored = checkpoints.load()
    return {k: v for k, v in stored.items() if "params" in k and "opt_state" not in k}


def assert_same_parameters(first, second, rtol):
    for name in ("original_seed0", "ssd_seed0"):
        a, b = parameters(first, name), parameters(second, name)
        assert a.keys() == b.keys() and a
        for key in a:
            np.testing.assert_allclose(a[key], b[key], atol=rtol * np.abs(a[key]).max())


@pytest.mark.slow
def test_eight_devices_give_the_result_of_one(finished, tmp_path, tfds_dir):
    workdir, _ = finished
    process = cli.run(
        cli.command(tmp_path / "eight", *cli.SMALL, config=TWO),
        tfds_dir,
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    assert process.returncode == 0, process.stderr_text
    assert "on 8 x cpu" in process.stderr_text
    # Sums over eight parts round differently; Adam amplifies it over the steps.
    assert_same_parameters(workdir, tmp_path / "eight", rtol=1e-2)


def start_together(workdir, tfds_dir, *flags):
    """Two processes of one run, over gloo."""
    port = cli.free_port()
    return [
        cli.start(
            cli.command(
                workdir,
                *cli.SMALL,
                *flags,
                f"--coordinator_address=localhost:{port}",
                "--num_processes=2",
                f"--process_id={i}",
                config=TWO,
            ),
            tfds_dir,
        )
        for i in range(2)
    ]


@pytest.mark.slow
def test_two_processes_over_gloo_give_the_result_of_one(finished, tmp_path, tfds_dir):
    workdir = tmp_path / "two"
    processes = start_together(workdir, tfds_dir)
    outputs = [p.communicate(timeout=300) for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert "2 process(es)" in outputs[0][1]
    assert "Forgetting class:3" in outputs[0][0] and "Forgetting" not in outputs[1][0]
    assert_same_parameters(finished[0], workdir, rtol=1e-2)


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_one_process_goes_on_from_what_is_saved(tmp_path, tfds_dir):
    workdir = tmp_path / "run"
    flags = ("--config.train.num_epochs=400", "--config.train.checkpoint_every=5")
    processes = start_together(workdir, tfds_dir, *flags)
    checkpoints = workdir / "checkpoints" / "original_seed0"
    saved = lambda: [int(p.name) for p in checkpoints.glob("*") if p.name.isdigit()]
    end = time.time() + 120
    while not saved() and time.time() < end:
        time.sleep(0.2)
    processes[1].kill()
    _, stderr = processes[0].communicate(timeout=300)
    assert processes[0].returncode != 0
    # By jax, or by us, whichever notices first.
    assert "another task died" in stderr or "another process of this run was lost" in stderr
    first = max(saved())
    assert 0 < first < 400
    process = cli.run(cli.command(workdir, *cli.SMALL, *flags, config=TWO), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    history = json.loads((workdir / "results.json").read_text())
    assert {row["method"] for row in history["rows"]} >= {"original", "oracle", "ssd"}
    # TensorBoard has all epochs, those before the loss too.
    with Checkpoints(checkpoints) as stored:
        losses = stored.load()["history.loss"]
    assert len(losses) == 400 and np.isfinite(losses).all()


@pytest.mark.slow
def test_parameters_split_over_devices_give_the_result_of_one(finished, tmp_path, tfds_dir):
    process = cli.run(
        cli.command(
            tmp_path / "run", *cli.SMALL, "--config.train.shard_parameters=True", config=TWO
        ),
        tfds_dir,
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert process.returncode == 0, process.stderr_text
    assert "on 4 x cpu" in process.stderr_text
    assert_same_parameters(finished[0], tmp_path / "run", rtol=1e-2)


def test_the_default_device_count_is_not_the_tests(finished):
    assert jax.device_count() == 8
    assert "on 1 x cpu" in finished[1].stderr_text


@pytest.mark.slow
def test_trained_originals_of_another_run_are_taken(finished, tmp_path, tfds_dir):
    workdir, _ = finished
    config = "configs/unlearn.py:digits,model=mlp,seeds=2,forget=class:4,method=ssd"
    same = f"--originals={workdir}"
    process = cli.run(cli.command(tmp_path / "taken", *cli.SMALL, same, config=config), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    process = cli.run(cli.command(tmp_path / "own", *cli.SMALL, config=config), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    rows = lambda folder: {
        (row["method"], row["seed"]): row
        for row in json.loads((folder / "results.json").read_text())["rows"]
    }
    taken, own, first = rows(tmp_path / "taken"), rows(tmp_path / "own"), rows(workdir)
    for key, row in own.items():  # the second seed, which the other run lacks, is trained
        for column in ("forget_loss", "retain_loss", "test_accuracy", "relearn_steps"):
            assert taken[key][column] == row[column], (key, column)
    # The very run, with the time that it took.
    assert taken["original", 0]["seconds"] == first["original", 0]["seconds"]
    with Checkpoints(tmp_path / "taken/checkpoints/original_seed0") as checkpoints:
        kept = checkpoints.load()
    with Checkpoints(workdir / "checkpoints/original_seed0") as checkpoints:
        for name, value in checkpoints.load().items():
            np.testing.assert_array_equal(kept[name], value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_train", 500, "config.num_train: stored None, now 500"),
        ("forget", "poison:130:0.5", "config.forget: stored 'of clean data', now 'poison"),
        ("model", {"name": "mlp", "options": {"hidden": [8]}}, "config.model.options.hidden"),
    ],
)
def test_originals_that_learned_something_else_are_refused(
    finished, tmp_path, field, value, message
):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text()) | {field: value}
    run = types.SimpleNamespace(config=config, workdir=tmp_path)
    with pytest.raises(ValueError, match=f"learned something else: .*{message}"):
        take_originals(run, ["original_seed0"], workdir)
    assert not list(tmp_path.iterdir())


def test_originals_of_no_run_are_refused(finished, tmp_path):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    run = types.SimpleNamespace(config=config, workdir=tmp_path / "new")
    with pytest.raises(ValueError, match="originals must be the --workdir of a run, got /no/such"):
        take_originals(run, ["original_seed0"], Path("/no/such/run"))
    with pytest.raises(ValueError, match="checkpoints has none of original_seed7"):
        take_originals(run, ["original_seed7"], workdir)
