"""Randomness of the loss belongs to the example: it depends on nothing but its key or index."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from tests import problems
from unlearnjax import curvature, data, models, parallel, tasks, training
from unlearnjax import types as nouns
from unlearnjax.unlearning import objectives

DIM, LATENT, DRAWS = 6, 2, 3


def noisy(num_draws: int = DRAWS) -> nouns.Task:
    """`(inputs @ w - noise)^2`, the noise uniform on the draw's stratum."""

    def draw(rng, example, train):
        low, high = example.get("stratum", (0.0, 1.0))
        noise = jax.random.uniform(rng, minval=low, maxval=high) + 10.0 * train
        return {**example, "noise": noise}

    def init(rng, batch):
        return {"params": {"w": jnp.ones(DIM) + 0 * batch["noise"].sum()}}

    def apply(variables, batch, rng, train):
        prediction = batch["inputs"] @ variables["params"]["w"] - batch["noise"]
        return {"prediction": prediction}, variables

    def loss(outputs, batch):
        return (outputs["prediction"] + 0 * batch["noise"]) ** 2

    def divergence(outputs, reference, batch, temperature=1.0):
        return (outputs["prediction"] - reference["prediction"]) ** 2

    metrics = lambda outputs, batch: {"noise": batch["noise"]}
    return nouns.Task(init, apply, loss, metrics, draw, divergence, num_draws)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    return {
        "inputs": jnp.asarray(rng.normal(size=(7, DIM)), jnp.float32),
        "index": jnp.array([40, 3, 17, 5, 0, 9, 28]),
    }


def vae():
    model = tasks.from_linen(models.VAE(LATENT, hidden=4), ("inputs", "noise"))
    return tasks.autoencoding(model, LATENT, DRAWS)


def test_evaluation_averages_draws_one_in_each_stratum(examples):
    """By hand: draw k is uniform on a third, and loss and metrics are the means."""
    task = noisy()
    variables = training.init_variables(task, examples, jax.random.key(1))
    settled = tasks.expected(task)
    outputs, _ = settled.apply(variables, examples, None, False)
    assert outputs["prediction"].shape == (7, DRAWS) and settled.draw is None
    noise = np.asarray(examples["inputs"].sum(-1))[:, None] - np.asarray(outputs["prediction"])
    assert ((noise * DRAWS).astype(int) == np.arange(DRAWS)).all()
    assert len(np.unique(noise.round(5))) == noise.size  # drawn anew for each
    per_example = training.evaluate(task, variables, examples)
    expected = np.mean(np.asarray(outputs["prediction"]) ** 2, axis=1)
    np.testing.assert_allclose(per_example["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(per_example["noise"], noise.mean(1), rtol=1e-4)
    once = tasks.expected(noisy(1)).apply(variables, examples, None, False)[0]["prediction"]
    assert once.shape == (7,)


@pytest.mark.parametrize("make", [noisy, vae])
def test_losses_do_not_depend_on_batch_order_padding_or_devices(make, examples):
    task = make()
    variables = training.init_variables(task, examples, jax.random.key(1))
    whole = training.evaluate(task, variables, examples)["loss"]
    assert whole.shape == (7,) and len(np.unique(whole)) == 7
    for size in (1, 3):  # the last of three is padded
        chunks = training.evaluate(task, variables, examples, batch_size=size)["loss"]
        np.testing.assert_allclose(chunks, whole, rtol=1e-5)
    order = jnp.array([5, 2, 6, 0, 1, 4, 3])
    other = training.evaluate(task, variables, data.take(examples, order))["loss"]
    np.testing.assert_allclose(other, whole[order], rtol=1e-5)
    with jax.set_mesh(parallel.mesh(jax.devices()[:2])):
        spread = training.evaluate(task, variables, examples, batch_size=4)["loss"]
    np.testing.assert_allclose(spread, whole, rtol=1e-5)


def test_a_step_draws_by_its_own_key_and_each_example_for_itself(examples):
    task, tx = noisy(), optax.sgd(0.0)
    step = training.make_step(training.supervised(task), tx)
    state = training.init_state({"params": {"w": jnp.zeros(DIM)}}, tx)

    def noise(rows, key, state=state):
        batch = data.take(examples, jnp.array(rows))
        return float(step(state, batch, jax.random.key(key))[1]["noise"])

    assert noise([0, 1], 0) == pytest.approx(noise([0], 0) + noise([1], 0))
    assert 10 < noise([0], 0) < 11  # training draws what is for training
    assert len({noise([0], 0), noise([1], 0), noise([0], 1)}) == 3
    assert noise([0], 0) != noise([0], 0, state._replace(step=state.step + 1))
    frozen = training.make_step(training.supervised(task, train=False), tx)
    assert 0 < frozen(state, data.take(examples, jnp.array([0])), jax.random.key(0))[1]["noise"] < 1


def test_devices_share_the_draws_of_a_step(examples):
    task, tx = noisy(), optax.sgd(0.1)
    state = training.init_state({"params": {"w": jnp.ones(DIM)}}, tx)
    batch = data.take(examples, jnp.array([0, 1, 2, 3]))
    whole = training.make_step(training.supervised(task), tx)(state, batch, jax.random.key(0))
    step = training.make_step(training.supervised(task), tx, axis_name="data")
    mapped = jax.shard_map(
        lambda state, batch: step(state, batch, jax.random.key(0)),
        mesh=parallel.mesh(jax.devices()[:2]),
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    problems.assert_trees_close(jax.jit(mapped)(state, batch), whole)


def test_student_and_teacher_see_the_same_draw(examples):
    """A student equal to its teacher is at no distance, and does not move."""
    task = noisy()
    variables = training.init_variables(task, examples, jax.random.key(1))
    objective = objectives.combine(forget=[(1.0, objectives.divergence("original"))], train=True)
    step = training.make_step(objective(task, {"original": variables}), optax.sgd(0.1))
    batch = data.take(examples, jnp.arange(5)) | {"part": jnp.zeros(5, int)}
    state, sums = step(training.init_state(variables, optax.sgd(0.1)), batch, jax.random.key(0))
    assert float(sums["objective"]) == 0
    problems.assert_trees_equal(state.variables, variables)


def test_fisher_is_of_the_mean_over_draws(examples):
    task = noisy()
    variables = training.init_variables(task, examples, jax.random.key(1))
    outputs, _ = tasks.expected(task).apply(variables, examples, None, False)
    x = np.asarray(examples["inputs"])
    # The derivative of a mean of squares.
    gradients = 2 * np.asarray(outputs["prediction"]).mean(1)[:, None] * x
    for method in ("layers", "vmap"):
        fisher = curvature.fisher_diagonal(task, variables, examples, method=method, batch_size=3)
        np.testing.assert_allclose(fisher["w"], (gradients**2).mean(0), rtol=1e-4)


def test_a_task_that_draws_nothing_is_itself(digits):
    task, few = problems.softmax_regression(), {k: v[:4] for k, v in digits.items()}
    assert tasks.expected(task) == task and tasks.drawn(task, few, train=True) is few


def test_augmentation_is_for_training_alone(examples):
    doubled = lambda rng, example: {**example, "inputs": 2 * example["inputs"]}
    plain = noisy()
    task = tasks.augmented(plain, doubled)
    one = lambda train: tasks.drawn(task, examples, train)
    np.testing.assert_array_equal(one(True)["inputs"], 2 * examples["inputs"])
    np.testing.assert_array_equal(one(False)["inputs"], examples["inputs"])
    assert (one(True)["noise"] > 10).all()  # what the task itself draws is still drawn
    variables = training.init_variables(task, examples, jax.random.key(1))
    assert training.evaluate(task, variables, examples)["loss"].shape == (7,)

    cut = tasks.augmented(problems.softmax_regression(), doubled)
    no_index = {"inputs": jnp.ones((2, 3)), "targets": jnp.zeros(2, jnp.int32)}
    settled = tasks.expected(cut)
    assert settled.draw is None and tasks.drawn(cut, no_index) is no_index


def test_draws_need_an_index(examples):
    without = {"inputs": examples["inputs"]}
    with pytest.raises(ValueError, match=r"column 'index' where a task draws .*\['inputs'\]"):
        tasks.drawn(noisy(), without)
    with pytest.raises(ValueError, match="column 'index'"):
        training.evaluate(vae(), {"params": {}}, without)
    keys = jax.random.split(jax.random.key(0), 7)
    assert tasks.drawn(noisy(), {**without, "key": keys})["noise"].shape == (7,)
