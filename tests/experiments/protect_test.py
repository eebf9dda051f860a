import json
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import protection as config_lib
from experiments import protect
from experiments.common import hackers, protect_report
from tests.experiments import cli
from unlearnjax import data as data_lib
from unlearnjax.data import pixels

CONFIG = "configs/protection.py:digits,model=mlp,train=200,test=80,seeds=2"
FLAGS = (
    "--config.num_surrogate=100",
    "--config.train.num_epochs=4",
    "--config.train.batch_size=32",
    "--config.model.options.hidden=(32,)",
    "--config.clusters.num_clusters=3",
    "--config.clusters.num_steps=3",
)
FEW = (*FLAGS, "--config.shares=()", "--config.blurs=()")


def command(workdir, *flags, config=CONFIG):
    return cli.command(workdir, *flags, config=config, experiment="protect")


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
def test_images_are_protected_and_learned_from(tmp_path, tfds_dir):
    process = cli.run(command(tmp_path / "run", *FLAGS), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    written = results(tmp_path / "run")
    summary = {
        (r["protection"], r["hacker"], r["labels"], r["share"]): r for r in written["summary"]
    }
    config = config_lib.get_config(CONFIG.partition(":")[2])
    assert set(summary) == {tuple(cell) for cell in protect.cells(config)}
    assert len(written["rows"]) == 2 * len(summary)
    clean, cuda = (summary[name, "plain", "same", 1.0] for name in ("clean", "cuda"))
    assert clean["effect"] == clean["effect_low"] == 0
    assert cuda["effect"] > 0.1 and cuda["protected_accuracy"] > cuda["clean_accuracy"]
    assert 5 < cuda["psnr"] < 30 and cuda["ssim"] < 1
    noise = summary["random_classes", "plain", "same", 1.0]
    assert noise["linf"] <= 255 * config.noise.epsilon + 1e-3
    for figure in ("images", "shares", "strengths"):
        assert (tmp_path / "run" / "plots" / f"{figure}.png").stat().st_size > 3000
    for name in ("protections", "hackers", "shares", "strengths", "costs"):
        assert f": {name}" in process.stdout_text


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path, tfds_dir):
    config = CONFIG + ",hacker=plain+transfer,labels=same,protection=cuda+clusters"
    run = lambda name: command(tmp_path / name, *FEW, config=config)
    process = cli.run(run("whole"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    killed = tmp_path / "killed"
    process = cli.start(run("killed"), tfds_dir)
    deadline = time.time() + 240
    while not list(killed.glob("rows/cuda_*.json")) and time.time() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "results.json").exists()
    process = cli.run(run("killed"), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    timeless = lambda rows: [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert timeless(results(killed)["rows"]) == timeless(results(tmp_path / "whole")["rows"])


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (CONFIG + ",protection=blur", (), "protections must be among"),
        (CONFIG + ",hacker=blur", (), "hackers must be among"),
        (CONFIG + ",labels=blur", (), "labels must be among"),
        (CONFIG, ("--config.coarse=()",), "need groups of the classes, coarse is empty"),
        (CONFIG, ("--config.train.augment=True",), "hackers train their way"),
        (CONFIG, ("--config.num_surrogate=1300",), "num_train must lie in [1, "),
        (CONFIG, ("--config.train.batch_size=201",), "got 201"),
        (CONFIG, ("--config.cuda.kernel_size=4",), "kernel_size must be odd, got 4"),
        (CONFIG, ("--config.hacker.deconvolution.kernel_size=2",), "kernel_size must be odd"),
        (CONFIG, ("--config.cuda.blur=1.5",), "blur must be a number in [0, 1], got 1.5"),
        (CONFIG, ("--config.clusters.mode=clip",), "mode must be one of"),
        ("configs/protection.py:digits,forget=class:3", (), "no meaning for protection"),
    ],
)
def test_bad_input_is_one_line(config, flags, message, tmp_path, tfds_dir):
    with pytest.raises(ValueError) as caught:
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=config, experiment="protect")
    assert message in str(caught.value)
    assert not list((tmp_path / "run").glob("rows/*"))


def test_the_table_has_every_protection_and_the_named_hackers():
    config = config_lib.get_config("digits,protection=cuda+random_classes,hacker=plain+linf")
    found = protect.cells(config)
    assert len(found) == len(set(found))
    plain = {cell for cell in found if cell.hacker == "plain"}
    whole = {(c.protection, c.labels) for c in plain if c.share == 1 and ":" not in c.protection}
    names, labels = ("clean", "cuda", "random_classes"), ("same", "coarser", "finer")
    assert whole == {(name, label) for name in names for label in labels}
    assert {c.protection for c in found if c.hacker == "linf"} == {"clean", "cuda"}
    shares = {(c.protection, c.share) for c in plain if c.share < 1}
    assert shares == {(n, s) for n in ("cuda", "unprotected") for s in (0.25, 0.5, 0.75)}
    strengths = {c.protection for c in plain if ":" in c.protection}
    assert strengths == {"cuda:0.1", "cuda:0.2", "cuda:0.5"}
    full = protect.cells(config_lib.get_config("full,protection=cuda+clusters,hacker=linf"))
    attacked = {c.protection for c in full if c.hacker == "linf"}
    assert attacked == {"clean", "cuda", "clusters"}
    # Without groups there is one labelling; large sets are small instances.
    assert config_lib.get_config("cifar100").labels == ("same",)
    small = config_lib.get_config("cifar10")
    assert (small.model.name, small.num_train, small.train.num_epochs) == ("convnet", 6000, 8)


def row(protection, seed, accuracy, **fields):
    keys = {"hacker": "plain", "labels": "same", "share": 1.0} | fields
    measured = {"protected_accuracy": 0.9, "train_accuracy": 1.0, "seconds": 1.0, "chance": 0.1}
    return {"protection": protection, "seed": seed, "clean_accuracy": accuracy, **keys, **measured}


def test_the_effect_is_paired_by_seed_with_the_same_hacker_on_the_same_labels():
    rows = [
        row("clean", 0, 0.9),
        row("clean", 1, 0.7),
        row("clean", 0, 0.5, hacker="linf"),
        row("clean", 1, 0.5, hacker="linf"),
        row("cuda", 1, 0.4),
        row("cuda", 0, 0.5),
        row("cuda", 0, 0.2, hacker="linf"),
        row("cuda", 1, 0.4, hacker="linf"),
        row("unprotected", 0, 0.8, share=0.5),
        row("unprotected", 1, 0.7, share=0.5),
    ]
    costs = [
        {"protection": "cuda", "coarse": coarse, "linf": x, "l2": x, "psnr": x, "ssim": x}
        for coarse, x in ((False, 2.0), (False, 4.0), (True, 9.0))
    ]
    summary = protect_report.summarise(rows, costs)
    found = {(r["protection"], r["hacker"]): r for r in summary}
    plain, attacked = found["cuda", "plain"], found["cuda", "linf"]
    np.testing.assert_allclose([plain["effect"], attacked["effect"]], [0.35, 0.2])
    # Student's t of one degree of freedom: 12.706 standard errors.
    np.testing.assert_allclose(plain["effect_high"] - plain["effect"], 12.706 * 0.05, rtol=1e-3)
    np.testing.assert_allclose(plain["clean_accuracy_std"], np.std([0.4, 0.5], ddof=1))
    assert plain["psnr"] == 3.0 and "psnr" not in found["unprotected", "plain"]
    np.testing.assert_allclose(found["unprotected", "plain"]["effect"], 0.05)
    tables = {name: dict(cells) for name, cells in protect_report.tables(summary).items()}
    assert tables["protections"]["protection"] == ["clean", "cuda"]
    assert tables["protections"]["effect"][1] == "35.0 [-28.5, 98.5]"
    assert tables["hackers"]["hacker"] == ["plain", "linf", "plain", "linf"]
    assert tables["shares"]["share"] == ["0%", "100%", "50%"]
    assert tables["costs"]["PSNR"] == ["3.0"]
    assert "strengths" not in tables  # there is one alone
    summary = protect_report.summarise([*rows, row("cuda:0.1", 0, 0.6)], costs)
    table = dict(protect_report.tables(summary)["strengths"])
    assert table["protection"] == ["clean", "cuda", "cuda:0.1"]


def test_sharpening_is_of_pixels():
    scale = pixels.pixel_scale(np.array([50.0]), np.array([20.0]))
    image = jax.random.uniform(jax.random.key(1), (8, 8, 1))
    key, fields = jax.random.key(2), {"centre": 2.5, "deviation": 0.1, "keep": 0.5}
    expected = data_lib.sharpen(key, {"inputs": image}, **fields)["inputs"]
    augment = hackers.sharpened(scale, fields)
    actual = augment(key, {"inputs": pixels.to_inputs(image, scale), "targets": 1})
    np.testing.assert_allclose(pixels.to_pixels(actual["inputs"], scale), expected, atol=1e-5)
    assert actual["targets"] == 1 and float(jnp.abs(expected - image).max()) > 0.1
