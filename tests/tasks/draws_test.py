"""Randomness of the loss belongs to the example: it depends on nothing but its key or index."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from tests import problems
from unlearnjax import curvature, data, models, parallel, tasks, training, unlearning
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


def test_draws_are_those_of_the_example_under_any_generator(examples):
    """Mapped over, rbg draws for all by the first key."""
    for generator in ("threefry2x32", "rbg"):
        with jax.default_prng_impl(generator):
            task = noisy()
            variables = training.init_variables(task, examples, jax.random.key(1))
            whole = training.evaluate(task, variables, examples)["loss"]
            chunks = training.evaluate(task, variables, examples, batch_size=2)["loss"]
            np.testing.assert_allclose(chunks, whole, rtol=1e-5)
            step = training.make_step(training.supervised(task), optax.sgd(0.0))
            state = training.init_state(variables, optax.sgd(0.0))
            noise = lambda rows, step=step, state=state: float(
                step(state, data.take(examples, jnp.array(rows)), jax.random.key(5))[1]["noise"]
            )
            assert noise([0, 1]) == pytest.approx(noise([0]) + noise([1]))


def test_an_example_has_its_stratum_and_metrics_their_shape(examples):
    def draw(rng, example, train):
        return {**example, "bounds": example["stratum"]}

    task = noisy()._replace(
        draw=draw,
        apply=lambda variables, batch, rng, train: ({"bounds": batch["bounds"]}, variables),
        loss=lambda outputs, batch: outputs["bounds"].sum(-1),
        metrics=lambda outputs, batch: {"bounds": outputs["bounds"]},
    )
    assert tasks.drawn(task, examples)["bounds"].tolist() == [[0, 1]] * 7
    settled = tasks.expected(task)
    outputs, _ = settled.apply({}, examples, None, False)
    thirds = [[0, 1 / 3], [1 / 3, 2 / 3], [2 / 3, 1]]
    np.testing.assert_allclose(outputs["bounds"], [thirds] * 7, rtol=1e-6)
    np.testing.assert_allclose(settled.metrics(outputs, examples)["bounds"], [[1 / 3, 2 / 3]] * 7)
    single, _ = tasks.expected(task, 1).apply({}, examples, None, False)
    assert single["bounds"].tolist() == [[0, 1]] * 7


@pytest.mark.parametrize("number", [1, 3])
def test_a_divergence_is_the_mean_over_the_draws_at_its_temperature(number, rng):
    """By SciPy, of logits that are an example's own number plus a drawn one, times the weights."""
    draw = lambda key, example, train: {**example, "noise": jax.random.normal(key)}

    def apply(variables, batch, rng, train):
        scale = batch["inputs"] + batch["noise"]
        return {"logits": scale[:, None] * variables["params"]}, variables

    task = tasks.classification(tasks.Model(lambda rng, batch: {}, apply))
    settled = tasks.expected(task._replace(draw=draw, num_draws=number))
    batch = {"inputs": jnp.array([1.0, -2.0]), "index": jnp.array([4, 9])}
    batch["targets"] = jnp.array([0, 2])
    own, other = rng.normal(size=(2, 3)).astype(np.float32)
    given = [settled.apply({"params": w}, batch, None, False)[0] for w in (own, other)]
    student, teacher = (
        scipy.special.log_softmax(np.reshape(outputs["logits"], (2, number, 3)) / 2, axis=-1)
        for outputs in given
    )
    expected = 4 * (np.exp(teacher) * (teacher - student)).sum(-1).mean(1)
    np.testing.assert_allclose(settled.divergence(*given, batch, 2.0), expected, rtol=1e-4)
    logits = np.reshape(given[0]["logits"], (2, number, 3))
    losses = -scipy.special.log_softmax(logits, axis=-1)[[0, 1], :, [0, 2]].mean(1)
    np.testing.assert_allclose(settled.loss(given[0], batch), losses, rtol=1e-4)


@pytest.mark.parametrize("index", [[[1], [2]], [0.5, 1.5]])
def test_an_index_is_an_integer_of_each_example(index):
    with pytest.raises(ValueError, match=r"index must be \[N\] integers, got"):
        tasks.drawn(noisy(), {"inputs": jnp.ones((2, DIM)), "index": jnp.asarray(index)})


class Jittered(nn.Module):
    """A classifier of inputs and noise."""

    @nn.compact
    def __call__(self, inputs, noise, train=False):
        x = nn.relu(nn.Dense(5)(inputs.reshape(len(inputs), -1) + noise[:, None]))
        return {"logits": nn.Dense(10)(x), "features": x}


def jittered(num_draws: int) -> nouns.Task:
    task = tasks.classification(tasks.from_linen(Jittered(), ("inputs", "noise")))
    draw = lambda rng, example, train: {**example, "noise": jax.random.normal(rng)}
    return task._replace(draw=draw, num_draws=num_draws)


ON_DRAWS = {
    "scrub": unlearning.scrub(optax.sgd(0.1)),
    "laf": unlearning.laf(optax.sgd(0.1), num_epochs=1, vae_epochs=1),
    "unsir": unlearning.unsir(optax.sgd(0.1)),
    "boundary_shrink": unlearning.boundary_shrink(optax.sgd(0.1), num_epochs=1),
    "just_in_time": unlearning.just_in_time(optax.sgd(0.1)),
    "synflow": unlearning.prune(0.5, score="synflow"),
    "acu": unlearning.acu(16),
    "ssd": unlearning.ssd(),
    "loss_free_ssd": unlearning.loss_free_ssd(),
}


@pytest.mark.parametrize("name", ON_DRAWS)
def test_methods_run_on_tasks_that_draw(name, digits):
    task = jittered(2)
    part = {k: jnp.asarray(v[:40]) for k, v in digits.items()}
    here = np.asarray(part["targets"]) == 3
    forget, retain = ({k: v[rows] for k, v in part.items()} for rows in (here, ~here))
    variables = training.init_variables(task, part, jax.random.key(0))
    method = unlearning.enforce(ON_DRAWS[name])
    deployed, memory = method.init(jax.random.key(1), task, variables, part)
    update = jax.jit(lambda v, m: method.update(jax.random.key(2), task, v, m, request)[0])
    request = nouns.Request(forget, retain)
    after = update(deployed, memory)
    loss = training.evaluate(method.serve(task), after, part)["loss"]
    assert loss.shape == (40,) and np.isfinite(loss).all()


def test_an_oracle_that_is_the_model_itself_does_not_move_it(digits):
    task = jittered(2)
    part = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    variables = training.init_variables(task, part, jax.random.key(0))
    method = unlearning.oracle_matching(optax.sgd(0.1), oracle=variables)
    moved, _ = method.update(jax.random.key(1), task, variables, (), nouns.Request(part, part))
    problems.assert_trees_close(moved, variables, rtol=1e-6)


def test_noise_copies_are_those_of_the_augmented_input():
    """Augmentation that is not random is other data."""
    inputs = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    model = tasks.Model(
        lambda rng, batch: {},
        lambda v, batch, rng, train: ({"logits": batch["inputs"] @ v["params"]["w"]}, v),
    )
    plain = tasks.classification(model)
    shifted = tasks.augmented(plain, lambda rng, e: {**e, "inputs": e["inputs"] + 3.0})
    method = unlearning.just_in_time(optax.sgd(1e-3), sigma=0.5)
    start = {"params": {"w": jnp.ones((4, 3))}}
    augmented, moved, unmoved = (
        method.update(jax.random.key(0), task, start, (), nouns.Request(part))[0]
        for task, part in (
            (shifted, {"inputs": inputs, "index": jnp.arange(6)}),
            (plain, {"inputs": inputs + 3.0, "index": jnp.arange(6)}),
            (plain, {"inputs": inputs, "index": jnp.arange(6)}),
        )
    )
    problems.assert_trees_close(augmented, moved, rtol=1e-6)
    assert not np.allclose(augmented["params"]["w"], unmoved["params"]["w"], rtol=1e-3)


@pytest.mark.parametrize("index", [[[1], [2]], [0.5, 1.5]])
def test_a_task_that_draws_nothing_trains_whatever_its_index_is(index, digits):
    task, tx = problems.softmax_regression(), optax.sgd(0.1)
    batch = {k: jnp.asarray(v[:2]) for k, v in digits.items()} | {"weight": jnp.ones(2)}
    state = training.init_state(problems.init(task, batch), tx)
    step = training.make_step(training.supervised(task), tx)
    expected, _ = step(state, batch, jax.random.key(0))
    actual, _ = step(state, {**batch, "index": jnp.asarray(index)}, jax.random.key(0))
    problems.assert_trees_equal(actual, expected)


@pytest.mark.parametrize("adapt", [tasks.from_linen, tasks.from_nnx])
def test_one_name_is_no_list_of_arguments(adapt):
    with pytest.raises(ValueError, match="arguments must be several names, .* got 'inputs'"):
        adapt(None, "inputs")
