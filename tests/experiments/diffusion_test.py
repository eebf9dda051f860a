"""The whole run of a diffusion model, at a size that draws nothing yet: every method."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import diffusion
from experiments.common import build
from tests.experiments import cli, painting
from unlearnjax import training
from unlearnjax.diffusion import answer_set
from unlearnjax.types import Request

CONFIG = "configs/diffusion.py:digits,method=all,train=300,test=120"
TOY = [
    f"--config.{field}"
    for field in (
        "train.num_epochs=2",
        "train.checkpoint_every=1",
        "model.options.width=8",
        "model.options.depth=1",
        "evaluate.sampling.num_steps=2",
        "evaluate.sampling.num_draws=2",
        "evaluate.answers.per_class=4",
        "evaluate.relearn.max_steps=2",
        "evaluate.judges.train.num_epochs=2",
        "evaluate.judges.least_real=0.0",
        "evaluate.judges.least_samples=0.0",
        "unlearn.num_steps=2",
        "unlearn.num_epochs=1",
        "unlearn.num_images=20",
        "unlearn.batch_size=15",
        "unlearn.sample_steps=2",
    )
]


@pytest.mark.slow
def test_every_method_goes_through_the_main_job_and_on_from_where_it_stopped(tfds_dir, tmp_path):
    process = cli.run(cli.command(tmp_path / "run", *TOY, config=CONFIG), tfds_dir)
    assert process.returncode == 0, process.stderr_text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {row["method"]: row for row in results["rows"]}
    assert list(rows) == ["original", "oracle", *diffusion.METHODS]
    for name, row in rows.items():
        seen = [row[column] for column in ("unlearning_accuracy", "fd", "forget_loss", "mia")]
        assert np.isfinite(seen).all(), name
    assert (tmp_path / "run" / "plots" / "samples.png").exists()
    for method in ("esd", "oracle"):
        (tmp_path / "run" / "rows" / f"{method}_seed0.json").unlink()
    again = cli.run(cli.command(tmp_path / "run", *TOY, config=CONFIG), tfds_dir)
    assert again.returncode == 0, again.stderr_text
    repeated = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    for old, new in zip(results["rows"], repeated, strict=True):
        same = {name: value for name, value in old.items() if "second" not in name}
        assert {name: new[name] for name in same} == same
    # Others take what it trained, if they learn the same.
    other = "configs/diffusion.py:digits,method=finetune,forget=random:0.1,train=300,test=120"
    originals = f"--originals={tmp_path / 'run'}"
    command = cli.command(tmp_path / "other", *TOY, originals, config=other)
    for flag in ("num_images=20", "num_steps=2", "sample_steps=2"):
        command.remove(f"--config.unlearn.{flag}")
    taken = cli.run(command, tfds_dir)
    assert taken.returncode == 0, taken.stderr_text
    with open(tmp_path / "other" / "results.json") as file:
        first = json.load(file)["rows"][0]
    assert first["test_loss"] != rows["original"]["test_loss"]  # of other examples
    assert first["retained_accuracy"] is not None and first["unlearning_accuracy"] is None
    learned = [*command, "--config.task_options.prediction=epsilon"]
    learned[4] = f"--workdir={tmp_path / 'third'}"
    refused = cli.run(learned, tfds_dir)
    (line,) = cli.error_lines(refused)
    assert "learned something else: config.task_options.prediction" in line


@pytest.mark.slow
def test_a_class_is_no_longer_drawn_and_the_others_are():
    """Bright corners say, to a judge without a network, which class was drawn."""
    config = diffusion.get_config("digits,method=all")
    config.model.options.update({"width": 32, "depth": 2, "num_heads": 2})
    learning = {"num_epochs": 250, "batch_size": 64, "average": 0.98, "learning_rate": 3e-3}
    config.train.update(learning)
    dataset = painting.corners()
    task, given = build.task(config, dataset), build.given(config, dataset)
    data = {name: jnp.asarray(value) for name, value in dataset.train.items()}
    rows = jnp.arange(len(data["targets"]))
    recipe = training.recipe(task, build.training_optimizer(config, len(rows)))
    length = {name: learning[name] for name in ("num_epochs", "batch_size")}
    fit = jax.jit(lambda rng: training.fit(recipe, data, rows, rng, **length)[0])
    original = fit(jax.random.key(0))
    draw = jax.jit(lambda v: answer_set(task, v, jax.random.key(3), jnp.arange(4), 20))

    def right(variables):
        """How often each class's samples are bright in its corner."""
        corners = np.asarray(draw(variables)).reshape(4, 20, 2, 4, 2, 4).mean(axis=(3, 5))
        return (corners.reshape(4, 20, 4).argmax(-1) == np.arange(4)[:, None]).mean(1)

    assert right(original).min() > 0.9
    forgotten = np.asarray(data["targets"]) == 2
    part = lambda chosen: {name: value[chosen] for name, value in data.items()}
    request = Request(part(forgotten), part(~forgotten))
    method = build.unlearner("salun_diffusion", config, int((~forgotten).sum()), given)
    forget = jax.jit(lambda v: method.update(jax.random.key(1), task, v, (), request)[0])
    found = right(forget(original))
    assert found[2] < 0.3 and found[[0, 1, 3]].min() > 0.8


def late(*given):
    return pytest.param(*given, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("arg", "flags", "message"),
    [
        ("digits", ("task_options.schedule=flat",), "task_options.schedule must be one of"),
        ("digits", ("task_options.prediction=x0",), "prediction must be one of"),
        ("digits", ("evaluate.answers.per_class=1",), r"answers.per_class must be an integer in"),
        ("digits", ("train.average=1.5",), r"config.train.average must be a number in \[0, 1\)"),
        ("diabetes,forget=random:0.1", (), "task must fit the targets of diabetes"),
        # After the methods are traced.
        late("digits,method=esd,forget=random:0.1", (), "esd forgets whole classes, but of"),
        late("digits,method=salun_diffusion", ("unlearn.anchor=3",), "must differ from what is"),
        late("digits,forget=poison:20:0.5", (), "forget must leave the data as it is"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_trained(
    arg, flags, message, tfds_dir, tmp_path
):
    given = [f"--config.{flag}" for flag in flags]
    with pytest.raises(ValueError, match=message):
        cli.execute(tmp_path / "run", tfds_dir, *given, config=f"configs/diffusion.py:{arg}")
    assert not (tmp_path / "run" / "checkpoints").exists()
