import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning import linear
from unlearnjax import tasks, training, unlearning
from unlearnjax.training import ensembles
from unlearnjax.types import Request

OPTIONS = {"num_epochs": 2, "batch_size": 3}
TASK = tasks.classification(
    tasks.Model(
        lambda rng, batch: {"params": {"w": jax.random.normal(rng, (4, 3))}},
        lambda v, batch, rng, train: ({"logits": batch["inputs"] @ v["params"]["w"]}, v),
    )
)


def counting(task):
    """Starts at 1, or at what is given; every step adds 1; the model is the double of the state."""
    of = lambda value: {"params": {"w": value}}

    def start(data, rng, given):
        variables = {**of(jnp.ones(())), **(given or {})}
        return training.TrainState(jnp.zeros((), jnp.int32), variables, ())

    def step(state, batch, rng):
        moved = of(state.variables["params"]["w"] + 1)
        return training.TrainState(state.step + 1, moved, ()), {"weight": batch["weight"].sum()}

    deploy = lambda state: of(2 * state.variables["params"]["w"])
    assert task is TASK
    return training.Recipe(start, step, deploy)


@pytest.mark.parametrize("begin", [None, 5.0])
def test_every_training_starts_steps_and_deploys_as_its_recipe_says(begin):
    data = linear.part(np.random.default_rng(0), 6)
    start = None if begin is None else {"params": {"w": jnp.array(begin)}}
    rng, options = jax.random.key(0), {**OPTIONS, "start": start}
    expected = 2 * ((begin or 1.0) + 4)  # four steps
    model, history = training.fit(counting(TASK), data, jnp.arange(6), rng, **options)
    assert float(model["params"]["w"]) == expected and history == {}
    state, _ = training.train(TASK, counting, data, jnp.arange(6), rng, **options)
    assert float(state.variables["params"]["w"]) == expected / 2 and int(state.step) == 4
    subsets = jnp.stack([jnp.arange(6)] * 2)
    keep = lambda variables, data: variables["params"]["w"]
    args = (data, subsets, jax.random.split(rng), keep)
    many = ensembles.train_ensemble(TASK, counting, *args, **options)
    assert many.tolist() == [expected] * 2
    method = unlearning.retrain(counting, **options)
    model, memory = method.update(rng, TASK, None, (), Request(None, data))
    assert float(model["params"]["w"]) == expected and memory == ()


def test_retraining_keeps_what_the_model_carries():
    seen = []

    def recording(task):
        def start(data, rng, given):
            seen.append(given)
            return counting(task).start(data, rng, None)

        return counting(task)._replace(start=start)

    data = linear.part(np.random.default_rng(0), 6)
    method = unlearning.retrain(recording, start={"params": 1.0, "graph": 2.0}, **OPTIONS)
    given = {"params": {"w": jnp.zeros((4, 3))}, "graph": 3.0}
    method.update(jax.random.key(0), TASK, given, (), Request(None, data))
    assert seen == [{"params": 1.0, "graph": 3.0}]


def test_descent_is_on_the_tasks_own_loss_or_another_one():
    """One step on all examples, by NumPy."""
    data = linear.part(np.random.default_rng(0), 6)
    given = {"params": {"w": jnp.ones((4, 3))}}
    options = {"num_epochs": 1, "batch_size": 6, "start": given}

    def half(variables, batch, rng):
        losses, rest = training.supervised(TASK)(variables, batch, rng)
        return losses / 2, rest

    slope = linear.cross_entropy_slopes(np.ones((4, 3)), data).mean(0)
    for loss_fn, share in ((None, 1.0), (half, 0.5)):
        recipe = training.descent(TASK, optax.sgd(0.3), loss_fn)
        model, _ = training.fit(recipe, data, jnp.arange(6), jax.random.key(0), **options)
        np.testing.assert_allclose(linear.weights(model), 1 - 0.3 * share * slope, atol=1e-6)


def test_a_start_replaces_what_it_has_and_leaves_the_rest_fresh(digits):
    task, rng = problems.mlp((3,)), jax.random.key(0)
    own = training.init_variables(task, digits, rng)
    body = jax.tree.map(jnp.ones_like, own["params"]["Dense_0"])
    given = {"params": {"Dense_0": body}, "graph": jnp.zeros(2)}
    mixed = training.init_variables(task, digits, rng, given)
    problems.assert_trees_equal(mixed["params"]["Dense_0"], body)
    problems.assert_trees_equal(mixed["params"]["Dense_1"], own["params"]["Dense_1"])
    assert mixed["graph"] is given["graph"]
    with pytest.raises(ValueError, match=r"start\['params'\] must have names among .* \['head'\]"):
        training.init_variables(task, digits, rng, {"params": {"head": body}})
    bad = {"params": {"Dense_1": {"kernel": jnp.ones((3, 11))}}}
    with pytest.raises(ValueError, match=r"\['kernel'\] must have the shape \[\(3, 10\)\], got"):
        training.init_variables(task, digits, rng, bad)
    with pytest.raises(ValueError, match=r"start\['params'\] must have the shape"):
        training.init_variables(task, digits, rng, {"params": jnp.ones(3)})
    assert training.carried(task, digits, mixed) == {"graph": given["graph"]}


def test_a_start_becomes_of_the_fresh_type_or_is_refused(digits):
    task, rng = problems.mlp((3,)), jax.random.key(0)
    own = training.init_variables(task, digits, rng)
    for dtype in (np.float16, jnp.bfloat16, np.float64):
        given = jax.tree.map(lambda x, dtype=dtype: np.asarray(x, dtype), own)
        placed = training.init_variables(task, digits, rng, given)
        assert {leaf.dtype for leaf in jax.tree.leaves(placed)} == {jnp.dtype("float32")}
        rounded = jax.tree.map(lambda x: x.astype(np.float32), given)
        problems.assert_trees_equal(placed, rounded)
    for dtype in (np.int32, bool, complex):
        given = jax.tree.map(lambda x, dtype=dtype: np.asarray(x, dtype), own)
        with pytest.raises(ValueError, match=r"'\]\['.*'\] must be of type float32, got "):
            training.init_variables(task, digits, rng, given)


def test_a_start_that_cannot_be_meant_is_refused_and_what_is_carried_is_not(digits):
    task, rng = problems.mlp((3,)), jax.random.key(0)
    params = training.init_variables(task, digits, rng)["params"]
    with pytest.raises(ValueError, match=r"as {'params': ...}, got \['Dense_0', 'Dense_1'\] bare"):
        training.init_variables(task, digits, rng, params)
    with pytest.raises(ValueError, match=r"got \['Dense_0'\] bare"):
        training.init_variables(task, digits, rng, {"Dense_0": params["Dense_0"], "graph": 0})
    for name in ("param", "Params", "parms"):
        with pytest.raises(ValueError, match=f"no use for '{name}'.*did you mean 'params'"):
            training.init_variables(task, digits, rng, {name: params})
    with pytest.raises(ValueError, match="start must map names to collections, got a list"):
        training.init_variables(task, digits, rng, [params])
    for carried in ({"base": params}, {"params": params, "param": 0}, {"Dense_0": jnp.ones(2)}, {}):
        placed = training.init_variables(task, digits, rng, carried)
        assert all(placed[name] is value or name == "params" for name, value in carried.items())


def test_a_recipe_stays_one_and_what_makes_none_is_refused(digits):
    recipe = training.descent(TASK, optax.sgd(0.1))
    assert training.recipe(TASK, recipe) is recipe
    with pytest.raises(ValueError, match="tx must be an optax transformation, or make a recipe"):
        training.recipe(TASK, "sgd")
    with pytest.raises(ValueError, match="recipe must be one, such as .* got a Gradient"):
        training.fit(optax.sgd(0.1), digits, jnp.arange(6), jax.random.key(0), **OPTIONS)
