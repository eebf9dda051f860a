import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning import linear
from unlearnjax import data as data_lib
from unlearnjax import models, parallel, tasks, training

N = 200
OPTIONS = {"num_epochs": 3, "batch_size": 32}  # 200 = 6 * 32 + 8: the last batch is padded


@pytest.fixture
def data(digits):
    return {k: jnp.asarray(v[:N]) for k, v in digits.items()}


def start(task, data, tx, seed=0):
    variables = training.init_variables(task, data, jax.random.key(seed))
    return training.init_state(variables, tx)


def test_step_is_plain_gradient_descent_on_the_weighted_mean(data):
    """Against NumPy on softmax regression."""
    task, tx = problems.softmax_regression(), optax.sgd(0.5)
    state = start(task, data, tx)
    weight = jnp.arange(N) % 3 * 1.0
    new, sums = training.make_step(training.supervised(task), tx)(
        state, {**data, "weight": weight}, jax.random.key(0)
    )
    x = np.asarray(data["inputs"], np.float64).reshape(N, -1)
    y = np.eye(10)[np.asarray(data["targets"])]
    w = np.asarray(weight, np.float64)[:, None]
    kernel, bias = (np.asarray(state.variables["params"]["Dense_0"][k]) for k in ("kernel", "bias"))
    logits = x @ kernel + bias
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = w * (probs - y) / w.sum()
    updated = new.variables["params"]["Dense_0"]
    np.testing.assert_allclose(updated["kernel"], kernel - 0.5 * x.T @ delta, atol=1e-5)
    np.testing.assert_allclose(updated["bias"], bias - 0.5 * delta.sum(0), atol=1e-5)
    losses = -np.log((probs * y).sum(1))
    np.testing.assert_allclose(sums["loss"], (losses * w[:, 0]).sum(), rtol=1e-5)
    np.testing.assert_allclose(sums["weight"], w.sum())


def test_a_batch_of_padding_changes_nothing_but_the_step_count(data):
    task, tx = problems.mlp(), optax.sgd(0.5)
    state = start(task, data, tx)
    batch = data_lib.take(data, jnp.full(4, -1))
    new, _ = training.make_step(training.supervised(task), tx)(state, batch, jax.random.key(0))
    problems.assert_trees_equal(new.variables, state.variables)
    assert new.step == 1


def test_streaming_equals_resident_training(data):
    augment = lambda rng, example: data_lib.pad_crop_flip(rng, example, padding=1)
    task = tasks.augmented(problems.mlp(), augment)
    tx = optax.adam(optax.cosine_decay_schedule(1e-2, 21))
    step = training.make_step(training.supervised(task), tx)
    args = (jnp.arange(0, N, 2), jax.random.key(7))
    state = start(task, data, tx)
    resident, history = jax.jit(
        lambda state: training.run_epochs(step, state, data, *args, **OPTIONS)
    )(state)

    fetched = []

    def fetch(rows):
        fetched.extend(rows)
        return {k: np.asarray(v)[np.asarray(rows)] for k, v in data.items()}

    stream = training.stream_epochs(step, state, fetch, *args, **OPTIONS)
    for epoch in range(OPTIONS["num_epochs"]):
        streamed, means = next(stream)
        one = {name: values[epoch] for name, values in history.items()}
        problems.assert_trees_close(dict(means), one)
    assert set(fetched) == set(range(0, N, 2))
    problems.assert_trees_close(streamed.variables, resident.variables)
    # The caller's state is not donated away.
    assert np.isfinite(state.variables["params"]["Dense_0"]["kernel"]).all()


def test_a_batch_that_the_devices_do_not_divide_is_streamed_to_one():
    """One step on all six examples, by NumPy."""
    data = linear.part(np.random.default_rng(0), 6)
    _, given, _ = linear.problem()
    tx = optax.sgd(0.5)
    step = training.make_step(training.supervised(linear.TASK), tx)
    fetch = lambda rows: {k: np.asarray(v)[rows] for k, v in data.items()}
    args = (training.init_state(given, tx), fetch, jnp.arange(6), jax.random.key(0))
    with jax.set_mesh(parallel.mesh(jax.devices()[:4])):
        ((state, _),) = training.stream_epochs(step, *args, num_epochs=1, batch_size=6)
    before = linear.weights(given)
    expected = before - 0.5 * linear.cross_entropy_slopes(before, data).mean(0)
    np.testing.assert_allclose(linear.weights(state.variables), expected, atol=1e-6)


@pytest.mark.parametrize("model", ["mlp", "batch_norm"])
def test_vmapped_training_of_k_models_equals_k_trainings(data, model):
    module = models.ResNet(10, stage_sizes=(1,), width=4)
    task = problems.mlp() if model == "mlp" else problems.linen(module)
    tx = optax.sgd(0.05, momentum=0.9)
    # Subsets of different sizes share one shape.
    subsets = jnp.stack([jnp.arange(64), jnp.where(jnp.arange(64) < 40, jnp.arange(64), -1)])
    keys = jax.random.split(jax.random.key(0), 2)

    def run(indices, rng):
        return training.train(task, tx, data, indices, rng, num_epochs=2, batch_size=32)

    together, history = jax.jit(jax.vmap(run))(subsets, keys)
    for k in range(2):
        alone, own_history = jax.jit(run)(subsets[k], keys[k])
        own = jax.tree.map(lambda x, k=k: x[k], (together.variables, history))
        problems.assert_trees_close(own[0], alone.variables, rtol=1e-4)
        problems.assert_trees_close(own[1], own_history, rtol=1e-4)


def test_examples_outside_the_subset_have_no_influence(data):
    task, tx = problems.mlp(), optax.sgd(0.1)
    other = {**data, "inputs": data["inputs"].at[100:].set(1e3)}
    states = [
        training.train(task, tx, d, jnp.arange(100), jax.random.key(0), **OPTIONS)[0]
        for d in (data, other)
    ]
    problems.assert_trees_equal(*(s.variables for s in states))


def test_two_calls_of_one_epoch_equal_one_call_of_two(data):
    task, tx = problems.mlp(), optax.adam(1e-2)
    step = training.make_step(training.supervised(task), tx)
    run = jax.jit(
        lambda state, n: training.run_epochs(
            step, state, data, jnp.arange(N), jax.random.key(3), num_epochs=n, batch_size=32
        )[0],
        static_argnums=1,
    )
    state = start(task, data, tx)
    problems.assert_trees_equal(run(run(state, 1), 1), run(state, 2))


def test_history_is_the_exact_mean_over_the_epoch(data):
    """With a learning rate of zero it must be the evaluation itself, padding or not."""
    task = problems.mlp()
    state, history = training.train(
        task, optax.sgd(0.0), data, jnp.arange(N), jax.random.key(0), **OPTIONS
    )
    outputs = training.evaluate(task, state.variables, data)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(history[name], np.full(3, outputs[name].mean()), rtol=1e-5)


def test_running_statistics_of_a_padded_epoch_are_those_of_the_data(data):
    """One valid example in the last batch must not become all of its statistics."""
    task = problems.linen(models.ResNet(10, stage_sizes=(1,), width=4))
    tx = optax.sgd(0.0)

    def means(n):
        state, _ = training.train(
            task, tx, data, jnp.arange(n), jax.random.key(1), num_epochs=20, batch_size=32
        )
        return state.variables["batch_stats"]["BatchNorm_0"]["mean"]

    full, padded = means(128), means(129)
    spread = np.asarray(full).std()
    assert spread > 0.01  # statistics that never move would be equal, too
    np.testing.assert_allclose(padded, full, atol=0.25 * spread)


class EvaluateTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_results_do_not_depend_on_the_batch_size(self):
        data, task = problems.digits(50), problems.mlp()
        variables = problems.init(task, data)
        results = [
            self.variant(lambda v, d, b=b: training.evaluate(task, v, d, batch_size=b))(
                variables, data
            )
            for b in (1, 7, 50, 1000)
        ]
        for result in results:
            assert {len(v) for v in result.values()} == {50}
            problems.assert_trees_close(result, results[0])


def test_mixed_precision_keeps_float32_state_and_learns(digits):
    task = problems.linen(models.MLP(num_classes=10, hidden=(32,), dtype=jnp.bfloat16))
    state, history = training.train(
        task,
        optax.adam(1e-2),
        digits,
        jnp.arange(1797),
        jax.random.key(0),
        num_epochs=4,
        batch_size=64,
    )
    assert {x.dtype for x in jax.tree.leaves(state.variables)} == {jnp.dtype("float32")}
    assert history["accuracy"][-1] > 0.95


def test_batch_larger_than_the_data_is_refused(data):
    with pytest.raises(ValueError, match=r"batch_size must be between 1 and .* \(200\), got 201"):
        training.train(
            problems.mlp(),
            optax.sgd(0.1),
            data,
            jnp.arange(N),
            jax.random.key(0),
            num_epochs=1,
            batch_size=201,
        )
