"""One step against NumPy: gradients, sums, running statistics, modes and types."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

from tests import problems
from tests.unlearning import linear
from unlearnjax import training


class Normed(nn.Module):
    """Batch norm, dropout, a linear layer."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        return nn.Dense(linear.CLASSES)(nn.Dropout(self.dropout, deterministic=not train)(x))


def batch(size=8, **columns):
    return linear.part(np.random.default_rng(0), size, weight=jnp.ones(size), **columns)


def stepped(task, data, tx, train=True, rng=0):
    variables = {**task.init(jax.random.key(0), data)}
    step = training.make_step(training.supervised(task, train=train), tx)
    state = training.init_state(variables, tx)
    return state, *step(state, data, jax.random.key(rng))


def test_running_statistics_move_towards_those_of_the_batch():
    data = batch()
    state, new, _ = stepped(problems.linen(Normed()), data, optax.sgd(0.0))
    x = np.asarray(data["inputs"])
    statistics = new.variables["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.5 * x.mean(0), atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.5 + 0.5 * x.var(0), atol=1e-6)
    again = training.make_step(training.supervised(problems.linen(Normed())), optax.sgd(0.0))
    twice, _ = again(new, data, jax.random.key(0))
    statistics = twice.variables["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(statistics["mean"], 0.75 * x.mean(0), atol=1e-6)
    assert int(twice.step) == 2 and int(state.step) == 0


def test_evaluation_mode_freezes_statistics_and_dropout():
    task = problems.linen(Normed(dropout=0.5))
    state, new, _ = stepped(task, batch(), optax.sgd(0.1), train=False)
    problems.assert_trees_equal(new.variables["batch_stats"], state.variables["batch_stats"])
    _, other, _ = stepped(task, batch(), optax.sgd(0.1), train=False, rng=1)
    problems.assert_trees_equal(new, other)
    results = [stepped(task, batch(), optax.sgd(0.1), rng=rng)[1] for rng in (0, 1)]
    kernels = [r.variables["params"]["Dense_0"]["kernel"] for r in results]
    assert not np.array_equal(*kernels)  # in training mode the key decides what is dropped


def test_metrics_are_weighted_sums_and_the_gradient_a_weighted_mean():
    weight = jnp.array([0.0, 1.0, 2.0, 0.5])
    data = {**batch(4), "weight": weight}
    _, given, _ = linear.problem()
    step = training.make_step(training.supervised(linear.TASK), optax.sgd(0.5))
    new, sums = step(training.init_state(given, optax.sgd(0.5)), data, jax.random.key(0))
    outputs, _ = linear.TASK.apply(given, data, None, False)
    right = np.asarray(outputs["logits"]).argmax(1) == np.asarray(data["targets"])
    assert float(sums["weight"]) == 3.5
    assert float(sums["accuracy"]) == pytest.approx(float((right * weight).sum()))
    before = linear.weights(given)
    mean = np.average(linear.cross_entropy_slopes(before, data), axis=0, weights=weight)
    np.testing.assert_allclose(linear.weights(new.variables), before - 0.5 * mean, atol=1e-6)


def test_the_optimizer_state_is_carried_on():
    """Momentum: a second step on the same gradient goes further by the momentum's share."""
    task = linear.TASK._replace(
        loss=lambda outputs, batch: outputs["logits"].sum(-1), metrics=lambda outputs, batch: {}
    )
    _, given, _ = linear.problem()
    tx = optax.sgd(0.1, momentum=0.5)
    step = training.make_step(training.supervised(task), tx)
    data, key = batch(), jax.random.key(0)
    first, _ = step(training.init_state(given, tx), data, key)
    second, _ = step(first, data, key)
    moves = [linear.weights(b) - linear.weights(a) for a, b in ((given, first.variables),)]
    moves.append(linear.weights(second.variables) - linear.weights(first.variables))
    np.testing.assert_allclose(moves[1], 1.5 * moves[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parameters_keep_their_type(dtype):
    _, given, _ = linear.problem()
    given = jax.tree.map(lambda x: x.astype(dtype), given)
    tx = optax.adam(1e-2)
    step = training.make_step(training.supervised(linear.TASK), tx)
    new, _ = step(training.init_state(given, tx), batch(), jax.random.key(0))
    assert new.variables["params"]["w"].dtype == dtype


def test_inside_a_mapped_axis_a_step_is_that_of_the_global_batch():
    """Uneven weights over four devices: the mean is over all examples, not of means."""
    weight = jnp.array([1.0, 0.0, 0.0, 0.0, 3.0, 1.0, 0.5, 2.0])
    data = {**batch(8), "weight": weight}
    _, given, _ = linear.problem()
    tx = optax.sgd(0.5)
    loss_fn = training.supervised(linear.TASK)
    state, key = training.init_state(given, tx), jax.random.key(0)
    whole, sums = training.make_step(loss_fn, tx)(state, data, key)
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    spread = jax.shard_map(
        training.make_step(loss_fn, tx, axis_name="data"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    parts, parts_sums = jax.jit(spread)(state, data, key)
    problems.assert_trees_close(parts.variables, whole.variables)
    problems.assert_trees_close(dict(parts_sums), dict(sums))


def test_running_statistics_are_averaged_over_a_mapped_axis_and_keys_differ():
    data = batch(8)
    tx = optax.sgd(0.0)
    task = problems.linen(Normed())
    variables = {**task.init(jax.random.key(0), data)}
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    seen = lambda variables, batch, rng: (
        jnp.broadcast_to(jax.random.uniform(rng), batch["weight"].shape),
        ({"draw": jax.random.uniform(rng, batch["weight"].shape)}, variables),
    )

    def spread(loss_fn):
        return jax.jit(
            jax.shard_map(
                training.make_step(loss_fn, tx, axis_name="data"),
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
                out_specs=PartitionSpec(),
            )
        )

    state, key = training.init_state(variables, tx), jax.random.key(0)
    new, _ = spread(training.supervised(task))(state, data, key)
    mean = new.variables["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * np.asarray(data["inputs"]).mean(0), atol=1e-6)
    _, sums = spread(seen)(state, data, key)
    one = float(jax.random.uniform(key, (2,)).sum())
    assert float(sums["draw"]) != pytest.approx(4 * one)  # every device with a key of its own


def test_what_is_only_carried_is_neither_averaged_nor_copied():
    """A float graph beside batch statistics, which alone are averaged."""
    data = batch(8)
    tx = optax.sgd(0.1)
    task = problems.linen(Normed())
    graph = jnp.arange(35.0).reshape(5, 7)
    variables = {**task.init(jax.random.key(0), data), "graph": {"edges": graph}}
    assert training.changed(task, variables, data) == {"params", "batch_stats"}
    mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
    spread = jax.shard_map(
        training.make_step(training.supervised(task), tx, axis_name="data"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("data"), PartitionSpec()),
        out_specs=PartitionSpec(),
    )
    args = training.init_state(variables, tx), data, jax.random.key(0)
    averaged = [
        operand.aval.shape
        for equation in problems.equations(jax.make_jaxpr(spread)(*args).jaxpr)
        if "psum" in equation.primitive.name
        for operand in equation.invars
    ]
    statistics = variables["batch_stats"]["BatchNorm_0"]["mean"].shape
    assert statistics in averaged and graph.shape not in averaged
    new, _ = jax.jit(spread)(*args)
    problems.assert_trees_equal(new.variables["graph"], variables["graph"])
