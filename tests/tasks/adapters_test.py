"""One small network from Linen, from NNX and by hand: the same task."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import PartitionSpec as P

from tests import problems
from unlearnjax import curvature, parallel, tasks, training, unlearning
from unlearnjax import data as data_lib
from unlearnjax.types import Request


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.Dense(12, name="hidden")(inputs.reshape(inputs.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(10, name="out")(nn.Dropout(0.5, deterministic=not train)(x))


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 12, rngs=rngs)
        self.norm = nnx.BatchNorm(12, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(12, 10, rngs=rngs)

    def __call__(self, inputs):
        x = nnx.relu(self.norm(self.hidden(inputs.reshape(inputs.shape[0], -1))))
        return {"logits": self.out(self.dropout(x)), "features": x}


def own_functions():
    def init(rng, batch):
        return {"params": {"w": 0.01 * jax.random.normal(rng, (64, 10))}}

    def apply(variables, batch, rng, train):
        inputs = batch["inputs"].reshape(-1, 64)
        return {"logits": inputs @ variables["params"]["w"]}, variables

    return tasks.Model(init, apply)


MODELS = {
    "linen": lambda: tasks.from_linen(LinenNet()),
    "nnx": lambda: tasks.from_nnx(NNXNet),
    "own": own_functions,
}


@pytest.mark.parametrize("name", MODELS)
def test_training_learns_digits_and_evaluation_is_deterministic(name, digits):
    task = tasks.classification(MODELS[name]())

    @jax.jit
    def run(rng):
        return training.train(
            task, optax.adam(1e-2), digits, jnp.arange(1797), rng, num_epochs=5, batch_size=64
        )

    state, history = run(jax.random.key(0))
    results = [training.evaluate(task, state.variables, digits, batch_size=b) for b in (256, 100)]
    assert results[0]["accuracy"].mean() > 0.9
    np.testing.assert_allclose(results[0]["loss"], results[1]["loss"], rtol=1e-4, atol=1e-5)
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_statistics_move_in_training_and_dropout_follows_the_key(name, digits):
    task = tasks.classification(MODELS[name]())
    variables = problems.init(task, digits)
    batch = {k: jnp.asarray(v[:32]) for k, v in digits.items()}
    outs, updated = zip(
        *(task.apply(variables, batch, jax.random.key(s), True) for s in (0, 0, 1)), strict=True
    )
    np.testing.assert_array_equal(outs[0]["logits"], outs[1]["logits"])
    assert not np.allclose(outs[0]["logits"], outs[2]["logits"])
    others = [{k: v for k, v in tree.items() if k != "params"} for tree in (variables, updated[0])]
    changed = [
        not np.array_equal(a, b)
        for a, b in zip(*(jax.tree.leaves(o) for o in others), strict=True)
        if jnp.issubdtype(a.dtype, jnp.inexact)
    ]
    assert any(changed)
    problems.assert_trees_equal(updated[0]["params"], variables["params"])
    _, untouched = task.apply(variables, batch, None, False)
    problems.assert_trees_equal(untouched, variables)


def test_nnx_and_linen_agree_on_the_same_numbers(digits):
    linen, other = (tasks.classification(MODELS[name]()) for name in ("linen", "nnx"))
    variables = problems.init(linen, digits)
    target = problems.init(other, digits)
    params, stats = variables["params"], variables["batch_stats"]["norm"]
    rest = {**target["rest"], "norm": stats}
    batch = {k: jnp.asarray(v[:50]) for k, v in digits.items()} | {"weight": jnp.ones(50)}
    expected, _ = linen.apply(variables, batch, None, False)
    actual, _ = other.apply({"params": params, "rest": rest}, batch, None, False)
    np.testing.assert_allclose(actual["logits"], expected["logits"], rtol=1e-5, atol=1e-5)
    # NNX layers have no layer rule: the fallback must give the Linen result.
    fishers = [
        curvature.fisher_diagonal(task, v, batch)
        for task, v in ((linen, variables), (other, {"params": params, "rest": rest}))
    ]
    problems.assert_trees_close(fishers[1], fishers[0])


class Weighted(nn.Module):
    """Reads three columns, and a table of integers that it does not make itself."""

    @nn.compact
    def __call__(self, inputs, scale, train=False):
        table = self.get_variable("table", "rows") if self.has_variable("table", "rows") else 1
        return nn.Dense(3)(inputs * scale[:, None] * jnp.sum(table))


def columns(n=4):
    rng = np.random.default_rng(0)
    return {
        "inputs": jnp.asarray(rng.normal(size=(n, 5)), jnp.float32),
        "scale": jnp.arange(1.0, n + 1),
        "targets": jnp.arange(n) % 3,
        "index": jnp.arange(n),
    }


def test_models_are_called_with_the_columns_that_they_name():
    batch = columns()
    model = tasks.from_linen(Weighted(), ("inputs", "scale"))
    variables = model.init(jax.random.key(0), batch)
    dense = variables["params"]["Dense_0"]
    expected = (batch["inputs"] * batch["scale"][:, None]) @ dense["kernel"] + dense["bias"]
    for rng, train in ((None, False), (jax.random.key(1), True)):
        outputs, _ = model.apply(variables, batch, rng, train)
        np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5)

    class Scaled(nnx.Module):
        def __init__(self, rngs):
            self.layer = nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, scale, inputs):
            return self.layer(inputs * scale[:, None])

    model = tasks.from_nnx(Scaled, ("scale", "inputs"))
    variables = model.init(jax.random.key(0), batch)
    dense = variables["params"]["layer"]
    expected = (batch["inputs"] * batch["scale"][:, None]) @ dense["kernel"] + dense["bias"]
    outputs, _ = model.apply(variables, batch, None, False)
    np.testing.assert_allclose(outputs["logits"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"needs the column 'scale', a batch has \['inputs'\]"):
        model.apply(variables, {"inputs": batch["inputs"]}, None, False)


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_collections_that_others_added_are_carried_through_training(name, digits):
    """Integers among them, through a scan, and over devices."""
    task = tasks.classification(MODELS[name]())
    data = {k: jnp.asarray(v[:24]) for k, v in digits.items()}
    graph = {"edges": jnp.array([[0, 1], [1, 2]]), "names": jax.random.key(3)}
    start = training.init_variables(task, data, jax.random.key(0), {"graph": graph})
    tx = optax.adam(1e-2)
    step = training.make_step(training.supervised(task), tx)
    state, _ = training.run_epochs(
        step,
        training.init_state(start, tx),
        data,
        jnp.arange(24),
        jax.random.key(1),
        num_epochs=2,
        batch_size=8,
    )
    assert state.variables["graph"]["edges"].tolist() == [[0, 1], [1, 2]]
    assert training.carried(task, data, state.variables).keys() == {"graph"}

    mesh = parallel.mesh(jax.devices()[:2])
    mapped = training.make_step(training.supervised(task), tx, axis_name="data")
    batch = data_lib.take(data, jnp.arange(8))
    both = jax.shard_map(
        lambda state, batch: mapped(state, batch, jax.random.key(1)),
        mesh=mesh,
        in_specs=(P(), P("data")),
        out_specs=P(),
    )
    after, _ = jax.jit(both)(training.init_state(start, tx), batch)
    edges = after.variables["graph"]["edges"]
    assert edges.tolist() == [[0, 1], [1, 2]] and edges.dtype == jnp.int32


def test_models_made_in_the_place_of_another_carry_what_it_carried(digits):
    task = tasks.classification(MODELS["linen"]())
    data = {k: jnp.asarray(v[:24]) for k, v in digits.items()}
    graph = {"edges": jnp.array([5, 7])}
    old = training.init_variables(task, data, jax.random.key(0), {"graph": graph})
    request = Request(data, data)
    novice = unlearning.incompetent_model(jax.random.key(1), task, old, request)
    retrain = unlearning.retrain(optax.sgd(0.1), num_epochs=1, batch_size=8)
    again, _ = retrain.update(jax.random.key(2), task, old, (), request)
    for model in (novice, again):
        assert model["graph"]["edges"].tolist() == [5, 7]
        assert not np.array_equal(model["params"]["out"]["kernel"], old["params"]["out"]["kernel"])
    weights = {"params": old["params"]}
    state, _ = training.train(
        task,
        optax.sgd(0.0),
        data,
        jnp.arange(24),
        jax.random.key(3),
        num_epochs=1,
        batch_size=8,
        start=weights,
    )
    problems.assert_trees_equal(state.variables["params"], old["params"])
    assert "graph" not in state.variables


def test_classes_are_the_columns_of_logits_two_or_more():
    assert [tasks.num_classes({"logits": np.zeros((4, c))}) for c in (2, 3)] == [2, 3]
    for shape in ((4, 1), (4,), (4, 5, 3)):
        with pytest.raises(ValueError, match=r"its outputs are features \[4, 2\], logits \[4"):
            tasks.num_classes({"logits": np.zeros(shape), "features": np.zeros((4, 2))})
    with pytest.raises(ValueError, match=r"with C >= 2, its outputs are mean \[4, 2\]$"):
        tasks.num_classes({"mean": np.zeros((4, 2))})
