"""Just-in-time unlearning, its steps followed in NumPy from the inputs that the model was shown."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import tasks, unlearning
from unlearnjax.types import Request

RATE = 0.05


def linear(params, inputs):
    return inputs.reshape(len(inputs), -1) @ params["w"] + params["b"]


@pytest.fixture
def seen():
    return []


@pytest.fixture
def task(seen):
    """A linear model that writes down what it is shown, with a running mean of its inputs."""

    def apply(variables, batch, rng, train):
        shown = {**batch, "rng": jax.random.key_data(rng), "train": jnp.array(train)}
        jax.debug.callback(lambda s: seen.append(jax.tree.map(np.array, s)), shown, ordered=True)
        mean = 0.9 * variables["stats"]["mean"] + 0.1 * batch["inputs"].mean()
        return {"logits": linear(variables["params"], batch["inputs"])}, {
            **variables,
            "stats": {"mean": mean},
        }

    return tasks.classification(tasks.Model(lambda rng, batch: {}, apply))


@pytest.fixture
def variables(rng):
    params = {"w": rng.normal(size=(6, 3)), "b": rng.normal(size=3)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    return {"params": params, "stats": {"mean": jnp.array(0.5)}}


def update(task, variables, forget, seed=0, **options):
    method = unlearning.just_in_time(optax.sgd(RATE), **options)
    run = jax.jit(lambda rng: method.update(rng, task, variables, (), Request(forget))[0])
    updated = run(jax.random.key(seed))
    jax.effects_barrier()
    return updated


def data(inputs, **more):
    inputs = jnp.asarray(inputs, jnp.float32)
    return {"inputs": inputs, "index": jnp.arange(len(inputs)), **more}


def test_steps_are_the_stated_ones(task, variables, seen, rng):
    """Seven weighted examples in batches of four: the last one has a padding row, an outlier."""
    inputs = rng.normal(size=(7, 2, 3))
    inputs[1] *= 30
    forget = data(inputs, weight=jnp.array([1.0, 2.0, 0.5, 1.0, 1.0, 3.0, 1.0]))
    updated = update(task, variables, forget, seed=10, sigma=40.0, num_copies=3, batch_size=4)

    assert all(pass_["train"] for pass_ in seen)
    batches = [seen[i : i + 4] for i in range(0, len(seen), 4)]
    assert len(batches) == 2
    params = jax.tree.map(np.float64, variables["params"])
    mean, narrower = 0.5, False
    for first, *copies in batches:
        x, weight = np.float64(first["inputs"]), first["weight"]
        present = x[weight > 0]
        narrower |= present.max() < x.max() or present.min() > x.min()
        gradients = jax.tree.map(np.zeros_like, params)
        here = linear(params, x)
        for copy in copies:
            moved = np.float64(copy["inputs"])
            assert (moved.min(), moved.max()) == (present.min(), present.max())
            np.testing.assert_array_equal(copy["weight"], weight)
            change = here - linear(params, moved)
            for n in range(len(x)):  # the sum over examples of the mean over copies
                size = np.linalg.norm(change[n]) * np.linalg.norm(x[n] - moved[n])
                slope = weight[n] / 3 * change[n] / size
                gradients["w"] += np.outer(x[n].ravel(), slope)
                gradients["b"] += slope
        params = jax.tree.map(lambda p, g: p - RATE * g, params, gradients)
        for shown in (first, *copies):
            mean = 0.9 * mean + 0.1 * shown["inputs"].mean()
    assert narrower, "no padding row lies outside of the others' range: nothing is tested"
    problems.assert_trees_close(updated["params"], params, rtol=1e-5)
    assert float(updated["stats"]["mean"]) == pytest.approx(mean, rel=1e-5)


def test_noise_is_normal_of_the_stated_width_and_drawn_anew(task, variables, seen, rng):
    inputs = rng.normal(size=(60, 2, 3))
    inputs[0, 0, 0], inputs[1, 0, 0] = 100.0, -100.0  # so wide a range clips nothing
    update(task, variables, data(inputs), sigma=0.7, num_copies=10, batch_size=60, num_epochs=2)
    first, *copies = seen[:11]
    noise = np.stack([copy["inputs"] - first["inputs"] for copy in copies])[:, 2:]
    assert noise.std() == pytest.approx(0.7, rel=0.03)
    assert noise.mean() == pytest.approx(0.0, abs=0.03)
    assert np.mean(np.abs(noise) < 0.7) == pytest.approx(0.683, abs=0.02)
    assert len(np.unique(noise.round(5))) > 0.95 * noise.size
    assert len({tuple(pass_["rng"]) for pass_ in seen}) == 22


def test_what_noise_cannot_move_stays_and_gives_no_nan(task, variables):
    updated = update(task, variables, data(np.full((3, 2, 3), 4.0)), num_copies=1)
    problems.assert_trees_equal(updated["params"], variables["params"])


def test_a_copy_that_is_moved_back_counts_0_whatever_the_model_draws(variables):
    """Dropout tells the copy from its example, though they are the same."""

    def apply(variables, batch, rng, train):
        kept = jax.random.bernoulli(rng, 0.5, batch["inputs"].shape)
        return {"logits": linear(variables["params"], batch["inputs"] * kept)}, variables

    task = tasks.classification(tasks.Model(lambda rng, batch: {}, apply))
    updated = update(task, variables, data(np.full((3, 2, 3), 4.0)), num_copies=4)
    problems.assert_trees_equal(updated["params"], variables["params"])


def test_a_model_that_does_not_depend_on_its_inputs_stays_and_gives_no_nan(task, variables, rng):
    flat = {**variables, "params": jax.tree.map(jnp.zeros_like, variables["params"])}
    updated = update(task, flat, data(rng.normal(size=(3, 2, 3))), num_copies=1)
    problems.assert_trees_equal(updated["params"], flat["params"])


def test_low_precision_stays_and_distances_are_not_lost_in_it(task, variables, rng):
    """Of float16 inputs squares of distances overflow; so do the sums of bfloat16 lose."""
    half = jax.tree.map(lambda x: x.astype(jnp.float16), variables)
    forget = data(200 * rng.normal(size=(8, 2, 3)))
    forget["inputs"] = forget["inputs"].astype(jnp.float16)
    updated = update(task, half, forget, sigma=200.0, num_copies=2)["params"]
    assert all(leaf.dtype == jnp.float16 for leaf in jax.tree.leaves(updated))
    assert np.isfinite(updated["w"]).all() and np.any(updated["w"] != half["params"]["w"])


def test_the_defaults_are_the_published_setting():
    parameters = inspect.signature(unlearning.just_in_time).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    assert defaults == {"sigma": 0.5, "num_copies": 25, "num_epochs": 1, "batch_size": 128}
    assert unlearning.just_in_time(optax.sgd(0.1)).needs == {"forget", "inputs"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma must be > 0, got 0.0"),
        ({"num_copies": 0}, "num_copies must be >= 1, got 0"),
    ],
)
def test_bad_values_are_named_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.just_in_time(optax.sgd(0.1), **options)


def test_inputs_that_cannot_be_moved_are_refused(task, variables):
    pixels = {"inputs": jnp.ones((3, 2, 3), jnp.uint8)}
    with pytest.raises(ValueError, match="inputs must be floating-point to be moved, got uint8"):
        update(task, variables, pixels)
