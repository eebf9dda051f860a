"""Published weights in the main job: read before anything is computed, and what all start from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import continual, datamodel, leaderboard, sweep, unlearn, worst_case
from experiments import unlearn as command
from experiments.common import build, fit, runner
from tests.experiments import cli
from unlearnjax import data as data_lib
from unlearnjax import models, pretrained
from unlearnjax.training.checkpoints import Checkpoints

OPTIONS = {"patch_size": 4, "width": 12, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A random tiny model of two classes, as a published file."""
    path = tmp_path_factory.mktemp("published") / "model.safetensors"
    module = models.by_name("vit_base", num_classes=2, **OPTIONS)
    params = module.init(jax.random.key(5), jnp.zeros((1, 8, 8, 1)))["params"]
    pretrained.save(path, params, pretrained.vit.hugging_face(1))
    return path


def config_of(weights, methods="retrain+finetune", train=200):
    config = unlearn.get_config(
        f"digits,model=vit_base,weights={weights},seeds=1,train={train},method={methods}"
    )
    config.model.options.update(OPTIONS)
    return config


def tiny_set():
    rng = np.random.default_rng(0)
    part = {
        "inputs": rng.standard_normal((12, 8, 8, 1)).astype(np.float32),
        "targets": np.arange(12, dtype=np.int32) % 3,
    }
    return data_lib.Dataset(part, part, 3, ("a", "b", "c"), np.zeros(1), np.ones(1))


def test_training_is_gentler_where_weights_are_given():
    with_weights = unlearn.get_config("digits,model=vit_base,weights=some/folder")
    assert with_weights.weights == "some/folder"
    assert (with_weights.train.num_epochs, with_weights.train.learning_rate) == (5, 1e-4)
    without = unlearn.get_config("digits,model=vit_base")
    assert without.weights is None and without.train.num_epochs == 20
    assert build.start(without, tiny_set()) is None
    del without["weights"]  # as in configurations that are older than the field
    assert build.start(without, tiny_set()) is None


def test_what_is_not_as_published_is_printed(weights, capsys):
    start = build.start(config_of(weights), tiny_set())
    lines = capsys.readouterr().out.splitlines()
    assert "not described" in lines[0]
    assert [line.partition(": ")[2] for line in lines[1:]] == [
        f"Dense_2/{leaf} does not fit the classes and is initialised anew"
        for leaf in ("kernel", "bias")
    ]
    assert "Dense_2" not in start["params"] and "Dense_1" in start["params"]


def test_weights_lie_where_training_does(weights):
    config = config_of(weights)
    mesh = jax.sharding.Mesh(
        np.asarray(jax.devices()[:2]), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    with jax.set_mesh(mesh):
        everywhere = build.start(config, tiny_set())
        config.train.shard_parameters = True
        config.model.options.width = 12
        split = build.start(config, tiny_set())
    for leaf in jax.tree.leaves((everywhere, split)):
        assert leaf.sharding.device_set == set(mesh.devices) and leaf.is_fully_replicated


def test_other_weights_are_something_else_to_have_learned(weights):
    one, two = (json.loads(config_of(path).to_json_best_effort()) for path in (weights, "other"))
    assert any("config.weights" in line for line in fit.other_training(one, two))
    assert not fit.other_training(one, one)
    older = {name: value for name, value in two.items() if name != "weights"}
    assert not fit.other_training(older, two | {"weights": None})


@pytest.mark.parametrize("family", [continual, datamodel, worst_case])
def test_families_that_train_afresh_have_no_weights(family):
    with pytest.raises(ValueError, match="'weights' has no meaning for"):
        family.get_config("digits,weights=some/folder")
    assert "weights" not in family.get_config("digits")


@pytest.mark.parametrize("family", [leaderboard, sweep])
def test_families_of_the_main_job_have_them(family):
    config = family.get_config("digits,model=vit_base,weights=some/folder")
    assert config.weights == "some/folder"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.safetensors", None, "there is no file"),
        ("cut.safetensors", lambda whole: whole[:-1], "cannot be read"),
        ("model.bin", lambda whole: whole, "is never opened"),
        ("model.safetensors", lambda whole: whole, "do not fit: .* must be"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_before_anything_is_computed(
    name, content, message, weights, tmp_path, tfds_dir
):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content(weights.read_bytes()))
    config = f"configs/unlearn.py:digits,model=vit_base,weights={path},method=ssd,seeds=1,train=100"
    flags = [f"--config.model.options.{k}={v}" for k, v in (OPTIONS | {"patch_size": 2}).items()]
    with pytest.raises(ValueError, match=rf"^weights.*{message}"):
        cli.execute(tmp_path / "run", tfds_dir, *flags, config=config)
    assert not [file for file in (tmp_path / "run").rglob("*") if file.name != ".lock"]


@pytest.mark.slow
def test_originals_oracles_and_retraining_start_from_the_published_weights(
    weights, tmp_path, quick_compiler
):
    config = config_of(weights)
    # So slow that all stay where they started.
    config.train.update({"learning_rate": 1e-12, "num_epochs": 1, "checkpoint_every": 1})
    config.rounding.num_perturbed = 0
    config.evaluate.relearn.max_steps = 1
    command.scenario(config, runner.Run("unlearn", config, tmp_path / "run", None))
    published = pretrained.open_tensors(weights)
    for name in ("original_seed0", "oracle_seed0", "retrain_seed0", "finetune_seed0"):
        with Checkpoints(tmp_path / "run" / "checkpoints" / name) as checkpoints:
            stored = checkpoints.load()
        (kernel,) = (v for k, v in stored.items() if k.endswith("params.Dense_0.kernel"))
        want = published.read("vit.encoder.layer.0.intermediate.dense.weight").T
        close = np.allclose(kernel, want, atol=1e-7)
        assert close == (name != "finetune_seed0"), name
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["original", "oracle", "retrain", "finetune"]
