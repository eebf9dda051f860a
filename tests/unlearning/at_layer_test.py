"""Feature-space methods at a named layer: as on a model that returns that layer as its features."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import tasks, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning import objectives

N, D, H = 20, 4, 3


def task_with(features):
    """Two layers, of which one is returned as 'features' `[B, D]`."""

    def init(rng, batch):
        first, last = jax.random.split(rng)
        params = {
            "first": jax.random.normal(first, (D, 2, H)),
            "last": jax.random.normal(last, (H, 1)),
        }
        return {"params": params}

    def apply(variables, batch, rng, train):
        params = variables["params"]
        early = tasks.tap("early", jnp.einsum("nd,dkh->nkh", batch["inputs"], params["first"]))
        late = tasks.tap("late", jnp.tanh(early).sum(1))
        found = {"early": early.reshape(len(early), -1), "late": late}[features]
        return {"logits": late @ params["last"], "features": found}, variables

    return tasks.regression(tasks.Model(init, apply))


EARLY, LATE = task_with("early"), task_with("late")
MODEL = EARLY.init(jax.random.key(0), {})
DATA = {
    "inputs": jax.random.normal(jax.random.key(1), (N, D)),
    "targets": jnp.linspace(-1.0, 1.0, N),
    "index": jnp.arange(N),
}
REQUEST = Request(*({k: v[rows] for k, v in DATA.items()} for rows in (slice(8), slice(8, N))))

away = objectives.combine(forget=[(-1.0, objectives.feature_distance("other"))])


def moving(layer=None):
    """Away from the features of a fresh model."""
    loop = unlearning.descend(
        away,
        optax.sgd(1e-3),
        over="forget",
        num_epochs=1,
        batch_size=8,
        teachers={"other": unlearning.incompetent_model},
    )
    return unlearning.at_layer(loop, layer)


METHODS = {
    "descend": moving,
    "laf": lambda **own: unlearning.laf(
        optax.sgd(1e-2), num_epochs=1, batch_size=4, vae_epochs=1, **own
    ),
    "blindspot": lambda **own: unlearning.blindspot(optax.sgd(1e-2), blind_epochs=1, **own),
}


@pytest.mark.parametrize(
    "name", ["descend", "blindspot", pytest.param("laf", marks=pytest.mark.slow)]
)
def test_a_layer_is_as_good_as_features(name):
    def run(method, task):
        update = lambda rng: method.update(rng, task, MODEL, (), REQUEST)[0]
        return jax.jit(update)(jax.random.key(2))

    early = run(METHODS[name](), EARLY)
    problems.assert_trees_close(run(METHODS[name](layer="early"), LATE), early, rtol=1e-6)
    assert np.abs(early["params"]["first"] - MODEL["params"]["first"]).max() > 1e-5


def test_init_reads_the_layer_too():
    seen = lambda rng, task, variables, data: (
        variables,
        task.apply(variables, data, None, False)[0]["features"],
    )
    method = unlearning.descend(away, optax.sgd(0.1), over="forget", num_epochs=1, batch_size=8)
    method = unlearning.at_layer(method._replace(init=seen), "early")
    _, found = method.init(None, LATE, MODEL, DATA)
    expected = EARLY.apply(MODEL, DATA, None, False)[0]["features"]
    np.testing.assert_array_equal(found, expected)


def test_no_layer_changes_nothing():
    method = moving()
    assert unlearning.at_layer(method, None) is method


@pytest.mark.parametrize("name", METHODS)
def test_what_is_no_layer_is_refused(name):
    with pytest.raises(ValueError, match="layer must be one name, such as 'a', got 3"):
        METHODS[name](layer=3)
    method = METHODS[name](layer="erly")
    update = lambda rng: method.update(rng, LATE, MODEL, (), REQUEST)[0]
    with pytest.raises(ValueError, match="among .*, got 'erly'; did you mean 'early'"):
        jax.eval_shape(update, jax.random.key(0))


def test_a_model_without_features_is_refused():
    bare = lambda variables, batch, rng, train: ({"logits": batch["inputs"][:, :1]}, variables)
    with pytest.raises(ValueError, match="the model must return .* it returns"):
        moving().update(jax.random.key(0), LATE._replace(apply=bare), MODEL, (), REQUEST)
