"""A toy that continues sequences of numbers, and what becomes of what it generates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearnjax import tasks, unlearning

D, STEPS = 3, 4
W = jax.random.normal(jax.random.key(0), (D, D)) / 2
BATCH = {"inputs": jax.random.normal(jax.random.key(1), (5, D)), "index": jnp.arange(5)}
RNG = jax.random.key(2)


def apply(variables, batch, rng, train):
    h = tasks.tap("h", jnp.tanh(batch["inputs"] @ variables["params"]["w"]))
    return {"logits": 2 * h, "features": h}, variables


def generate(task, variables, rng, batch):
    """Each step's output, with a little noise, is the next step's input."""

    def step(x, key):
        outputs, _ = task.apply(variables, {**batch, "inputs": x}, None, False)
        x = outputs["logits"] + 0.1 * jax.random.normal(key, x.shape)
        return x, {"steps": x, **{k: v for k, v in outputs.items() if k.startswith("hidden.")}}

    _, steps = jax.lax.scan(step, batch["inputs"], jax.random.split(rng, STEPS))
    return {name: value.swapaxes(0, 1) for name, value in steps.items()}


TASK = tasks.classification(tasks.Model(None, apply))._replace(generate=generate)
VARIABLES = {"params": {"w": W}}


def by_hand(predict):
    """The same loop in NumPy, of a function from inputs to the next ones."""
    x, found = np.asarray(BATCH["inputs"]), []
    for key in jax.random.split(RNG, STEPS):
        x = np.asarray(predict(x)) + 0.1 * np.asarray(jax.random.normal(key, x.shape))
        found.append(x)
    return np.stack(found, axis=1)


def steps(task, variables=VARIABLES):
    return tasks.generate(task, variables, RNG, BATCH)["steps"]


plain = lambda x: 2 * np.tanh(x @ np.asarray(W))


def test_generation_is_that_of_the_model():
    np.testing.assert_allclose(steps(TASK), by_hand(plain), rtol=1e-5, atol=1e-6)
    other = tasks.generate(TASK, VARIABLES, jax.random.key(3), BATCH)["steps"]
    assert np.abs(other - steps(TASK)).max() > 0.01  # it draws by its key


def test_an_edit_reaches_generation():
    edited = tasks.edit(TASK, {"h": lambda h, batch: h * jnp.array([1.0, 0.0, -1.0])})
    expected = by_hand(lambda x: plain(x) * np.array([1.0, 0.0, -1.0]))
    np.testing.assert_allclose(steps(edited), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected - by_hand(plain)).max() > 0.1


def test_what_is_captured_is_seen_in_generation():
    found = tasks.generate(tasks.capture(TASK, ("h",)), VARIABLES, RNG, BATCH)
    np.testing.assert_allclose(found["steps"], steps(TASK), rtol=1e-5)
    given = np.concatenate([BATCH["inputs"][:, None], found["steps"][:, :-1]], axis=1)
    np.testing.assert_allclose(found["hidden.h"], np.tanh(given @ W), rtol=1e-5, atol=1e-6)


def test_augmentation_leaves_generation_alone():
    task = tasks.augmented(TASK, lambda rng, example: {**example, "inputs": 0 * example["inputs"]})
    np.testing.assert_array_equal(steps(task), steps(TASK))


def test_generation_reaches_through_what_methods_serve():
    ensemble = jax.tree.map(lambda w: jnp.stack([w, -w / 2]), VARIABLES)

    def mean(x):
        logits = np.stack([plain(x), 2 * np.tanh(-x @ np.asarray(W) / 2)])
        return np.log(np.mean(jax.nn.softmax(logits), axis=0))

    served = steps(unlearning.averaged(TASK), ensemble)
    np.testing.assert_allclose(served, by_hand(mean), rtol=1e-4, atol=1e-5)

    direct = unlearning.dm_direct(optax.sgd(0.1), num_models=2).serve(TASK)
    change = jnp.arange(15.0).reshape(5, 3) / 15
    served = steps(direct, {**VARIABLES, "change": change})
    np.testing.assert_allclose(served, by_hand(lambda x: plain(x) + change), rtol=1e-5, atol=1e-6)

    method = unlearning.acu(num_features=7)
    projection = jax.random.normal(RNG, (D, 7))
    head = jax.random.normal(jax.random.key(5), (7, D))
    params = {"backbone": VARIABLES, "projection": projection, "head": head}
    closed = steps(method.serve(tasks.edit(TASK, {"h": lambda h, batch: -h})), {"params": params})
    expected = by_hand(lambda x: np.maximum(-plain(x) / 2 @ np.asarray(projection), 0) @ head)
    np.testing.assert_allclose(closed, expected, rtol=1e-4, atol=1e-5)


def test_a_task_that_only_predicts_is_refused():
    with pytest.raises(ValueError, match="the task must generate: it has no function `generate`"):
        tasks.generate(TASK._replace(generate=None), VARIABLES, RNG, BATCH)
