import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import continual, sweep
from configs import unlearn as config_lib
from experiments.common import build
from tests import problems
from unlearnjax import training, unlearning


def test_all_is_every_method_and_may_stand_beside_others():
    every = tuple(config_lib.METHODS)
    assert config_lib.get_config("digits,method=all").methods == every
    assert config_lib.get_config("digits,method=ssd+all").methods[0] == "ssd"
    assert config_lib.get_config().methods == config_lib.CHOSEN
    assert sweep.get_config("digits,method=all").methods == tuple(sweep.SPACES)
    assert sweep.get_config("digits,method=retrain").methods == ("retrain",)  # refused at launch
    assert continual.get_config("digits,method=all").methods == continual.METHODS


def test_a_shared_field_reaches_every_method_that_has_it(monkeypatch):
    seen = {}

    def record(name):
        constructor = getattr(unlearning, name)

        def recorded(*args, **kwargs):
            seen[name] = kwargs
            return constructor(*args, **kwargs)

        recorded.__signature__ = __import__("inspect").signature(constructor)
        monkeypatch.setattr(unlearning, name, recorded)

    config = config_lib.get_config("digits,model=mlp")
    config.unlearn.batch_size = 17
    config.unlearn.alpha = 6.5
    for name in ("retrain", "finetune", "ssd"):
        record(name)
        build.unlearner(name, config, 1000)
    assert seen["ssd"]["alpha"] == 6.5 and seen["ssd"]["batch_size"] == 17
    assert seen["finetune"]["batch_size"] == 17
    assert seen["retrain"]["batch_size"] == config.train.batch_size  # as the original was trained


def test_shared_field_of_no_chosen_method_is_refused():
    config = config_lib.get_config("digits,method=finetune")
    config.unlearn.alpha = 3.0
    with pytest.raises(ValueError, match="unlearn.alpha is a field of none of the methods"):
        build.validate_shared_fields(config)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "optimizer",
            "adamm",
            r"optimizer must be one of \('sgd', 'momentum', 'adam', .*did you mean 'adam'",
        ),
        ("schedule", "linear", "train.schedule must be one of"),
        ("learning_rate", 0.0, "learning_rate must be > 0, got 0.0"),
    ],
)
def test_training_fields_are_validated(name, value, message):
    config = config_lib.get_config("digits")
    config.train[name] = value
    with pytest.raises(ValueError, match=message):
        build.training_optimizer(config, 100)


def test_a_recipe_of_ones_own_makes_the_training_of_the_optimizer(tmp_path, monkeypatch):
    (tmp_path / "own_recipes.py").write_text(
        "from unlearnjax import training\n"
        "def smooth(tx):\n"
        "    return training.averaged(tx, decay=0.5)\n"
        "def turns(tx):\n"
        "    player = lambda task: training.Player(training.supervised(task), tx, part='')\n"
        "    return lambda task: training.alternation(task, {'one': player(task)})\n"
        "nothing, number = (lambda tx: None), 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = config_lib.get_config("digits,model=mlp,method=retrain")
    config.train.update({"optimizer": "sgd", "schedule": "constant", "learning_rate": 0.25})
    assert config.train.recipe is None
    older = config.copy_and_resolve_references()
    del older.train["recipe"]
    one = np.ones(())
    step = lambda tx: float(tx.update(one, tx.init(one), one)[0])
    assert step(build.recipe(config, 9)) == step(build.recipe(older, 9)) == -0.25
    config.train.recipe = "own_recipes:smooth"
    smooth = build.recipe(config, 9)
    state = smooth.update(one, smooth.init(one), one)[1]
    assert float(state.average) == 0.875  # of 1 and 0.75
    config.train.recipe = "own_recipes:turns"
    task = problems.softmax_regression()
    assert isinstance(training.recipe(task, build.recipe(config, 9)), training.Recipe)
    for path, message in (
        ("adam", "train.recipe must be an import path, 'module:function', got 'adam'"),
        ("own_recipes:smoth", "'own_recipes:smoth' cannot be imported"),
        ("own_recipes:nothing", "got 'own_recipes:nothing', which makes None"),
        ("own_recipes:number", "got 'own_recipes:number', which makes None"),
    ):
        config.train.recipe = path
        with pytest.raises(ValueError, match=message) as caught:
            build.recipe(config, 9)
        assert "\n" not in str(caught.value)


def test_fields_of_an_unlearner_of_ones_own_are_its_arguments(tmp_path, monkeypatch):
    (tmp_path / "own_unlearners.py").write_text(
        "from unlearnjax.unlearning import finetune\n"
        "def gentle(tx, *, num_epochs=2):\n"
        "    return finetune(tx, num_epochs=num_epochs, batch_size=32)\n"
        "def wants(tx, strength):\n"
        "    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    every = config_lib.get_config("digits,method=all+own_unlearners:gentle").methods
    assert every == (*config_lib.METHODS, "gentle")
    config = config_lib.get_config("digits,method=ssd+own_unlearners:gentle")
    assert config.methods == ("ssd", "gentle")
    assert config.unlearn.gentle.num_epochs == 2 and config.unlearn.gentle.learning_rate == 1e-3
    assert build.unlearner("gentle", config, 100).needs == {"retain", "inputs", "labels"}
    for method, message in (
        ("own_unlearners:wants", "argument 'strength' of method 'own_unlearners:wants'"),
        ("own_unlearners:absent", "cannot be imported"),
        ("absent:gentle", "No module named 'absent'"),
    ):
        with pytest.raises(ValueError, match=message):
            config_lib.get_config(f"digits,method={method}")


def test_every_optimizer_by_name_takes_a_step():
    for name in build.OPTIMIZERS:
        tx = build.optimizer(name, 0.1)
        params = jnp.ones(2)
        updates, state = tx.update(jnp.ones(2), tx.init(params), params)
        assert (updates < 0).all()
        # What is left of the first step when there is nothing more to descend.
        still, _ = tx.update(jnp.zeros(2), state, optax.apply_updates(params, updates))
        assert (abs(still) > 0.01).all() == (name in ("momentum", "adam", "adamw"))


def test_problem_follows_the_seed_alone(tfds_dir):
    config = config_lib.get_config("digits,model=mlp,forget=random:0.2")
    first, second = (build.problem(config, tfds_dir) for _ in range(2))
    assert (first.forget == second.forget).all()
    assert len(first.forget) + len(first.retain) == len(first.train["targets"])
    config.seed = 1
    assert not set(build.problem(config, tfds_dir).forget) == set(first.forget)


def test_a_named_trigger_is_in_the_pixels_of_the_data_set(tfds_dir):
    """The patch of digits is the brightest value there is, 16 as it is stored."""
    config = config_lib.get_config("digits,model=mlp,forget=poison:60:1.0:patch:clean_label")
    problem = build.problem(config, tfds_dir)
    stored = problem.train["inputs"] * problem.dataset.std + problem.dataset.mean
    np.testing.assert_allclose(stored[problem.forget][:, -1, -1], 16, atol=1e-4)
    assert (problem.train["targets"][problem.forget] == 0).all() and len(problem.forget) == 60
    seen = problem.held_out["inputs"][problem.unseen] * problem.dataset.std + problem.dataset.mean
    np.testing.assert_allclose(seen[:, -1, -1], 16, atol=1e-4)


def test_model_options_and_dtype_are_validated(tfds_dir):
    config = config_lib.get_config("digits,model=mlp")
    dataset = build.problem(config, tfds_dir).dataset
    config.model.dtype = "float16"
    with pytest.raises(ValueError, match=r"model.dtype must be one of \['bfloat16', 'float32'\]"):
        build.task(config, dataset)
