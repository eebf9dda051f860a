"""Two players in the main job: trained, killed and gone on with, retrained, reported."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from configs import unlearn
from experiments import unlearn as command
from experiments.common import build, measure, runner
from tests import problems
from unlearnjax import training
from unlearnjax.training.checkpoints import Checkpoints


def recipe(tx):
    """The head learns in every step, the body in every fifth; the average of it is deployed."""

    def players(task):
        loss = training.supervised(task)
        return {
            "head": training.Player(loss, tx, part="Dense_1"),
            "body": training.Player(loss, training.averaged(tx, decay=0.9), 5, part="Dense_0"),
        }

    return lambda task: training.alternation(task, players(task))


@pytest.fixture(scope="module")
def config():
    config = unlearn.get_config("digits,model=mlp,seeds=1,train=150,test=50,method=retrain")
    config.train.update({"recipe": f"{__name__}:recipe", "num_epochs": 3, "checkpoint_every": 1})
    config.model.options.hidden = (8,)
    config.rounding.num_perturbed, config.evaluate.relearn.max_steps = 0, 2
    return config


def models(workdir):
    """What is stored of every model, but for times."""
    found = {}
    for folder in sorted((workdir / "checkpoints").iterdir()):
        with Checkpoints(folder) as checkpoints:
            stored = checkpoints.load()
        found[folder.name] = {k: v for k, v in stored.items() if k not in ("cost", "seconds")}
    return found


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_originals_oracles_and_retraining_are_by_the_recipe_of_the_config(
    config, tmp_path, tfds_dir, monkeypatch, quick_compiler
):
    run = lambda name: runner.Run("unlearn", config, tmp_path / name, str(tfds_dir))
    (row, *_) = command.scenario(config, run("whole"))
    stored = models(tmp_path / "whole")
    assert set(stored) == {"original_seed0", "oracle_seed0", "retrain_seed0"}

    # The original is that of the library.
    problem = build.problem(config, str(tfds_dir))
    bench = measure.bench(config, problem)
    tx = build.training_optimizer(config, len(problem.train["targets"]))
    expected, history = training.fit(
        recipe(tx)(bench.task),
        bench.train,
        jnp.arange(len(problem.train["targets"])),
        runner.key(config.seed, "original", 0),
        num_epochs=3,
        batch_size=config.train.batch_size,
    )
    own = stored["original_seed0"]
    head = own["state.variables.params.Dense_1.kernel"]
    np.testing.assert_allclose(head, expected["params"]["Dense_1"]["kernel"], rtol=1e-4, atol=1e-6)
    for player in ("head", "body"):
        np.testing.assert_allclose(
            own[f"history.{player}.loss"], history[f"{player}.loss"], rtol=1e-4
        )
    arrays = np.load(tmp_path / "whole" / "rows" / "original_seed0.npz")
    losses = training.evaluate(bench.task, expected, bench.train)["loss"]  # of the average
    np.testing.assert_allclose(arrays["retain_loss"], losses[problem.retain], rtol=1e-3, atol=1e-5)
    page = (tmp_path / "whole" / "report.html").read_text()
    assert "Training loss" in page and row["method"] == "oracle"

    # Killed within the second epoch of the original, the same command ends with the same bits.
    seen, advance = [], runner.Run.advance

    def dying(self, description, amount=1, **options):
        seen.append(description)
        if len(seen) == 3:
            raise Killed
        advance(self, description, amount, **options)

    with monkeypatch.context() as patch:
        patch.setattr(runner.Run, "advance", dying)
        cut = run("cut")
        with pytest.raises(Killed):
            command.scenario(config, cut)
        cut.close()
    assert not (tmp_path / "cut" / "results.json").exists()
    command.scenario(config, run("cut"))
    again = models(tmp_path / "cut")
    problems.assert_trees_equal(again, stored)
    rows = [
        [{k: v for k, v in r.items() if "seconds" not in k} for r in json.loads(text)["rows"]]
        for text in ((tmp_path / n / "results.json").read_text() for n in ("whole", "cut"))
    ]
    assert rows[0] == rows[1]
