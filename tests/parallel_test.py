import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from tests import problems
from unlearnjax import curvature, models, parallel, training

DEVICES = 8


def batch_of(digits, n=32):
    return {k: jnp.asarray(v[:n]) for k, v in digits.items()} | {
        # Uneven weights, so that a mean of per-device means would be wrong.
        "weight": (jnp.arange(n) % 5 > 0).astype(jnp.float32)
    }


def convnet():
    return problems.linen(models.ConvNet(num_classes=10, channels=(4, 8), hidden=16))


def test_sharded_loss_and_gradients_equal_one_device(digits):
    task = convnet()
    variables = problems.init(task, digits)
    tx = optax.sgd(1.0)  # the update is then minus the gradient
    step = training.make_step(training.supervised(task), tx)
    state = training.init_state(variables, tx)
    batch = batch_of(digits)
    expected, sums = jax.jit(step)(state, batch, jax.random.key(0))

    mesh = parallel.mesh()
    assert mesh.size == DEVICES
    with jax.set_mesh(mesh):
        sharded = parallel.shard(batch, mesh)
        assert len(sharded["inputs"].sharding.device_set) == DEVICES
        placed = parallel.replicate(state, mesh)
        actual, sharded_sums = jax.jit(step)(placed, sharded, jax.random.key(0))
    problems.assert_trees_close(actual.variables, expected.variables)
    problems.assert_trees_close(sharded_sums, sums)


def test_sharded_training_run_equals_one_device(digits):
    task, tx = problems.mlp(), optax.adam(1e-3)
    data = {k: v[:300] for k, v in digits.items()}

    def run(data):
        return training.train(
            task, tx, data, jnp.arange(300), jax.random.key(0), num_epochs=2, batch_size=64
        )

    expected, history = jax.jit(run)(data)
    with jax.set_mesh(parallel.mesh()) as _:
        mesh = parallel.current()
        program = jax.jit(run).lower(parallel.replicate(data, mesh)).compile()
        assert "all-reduce" in program.as_text(), "the gradient is not computed on all devices"
        actual, sharded_history = program(parallel.replicate(data, mesh))
    problems.assert_trees_close(actual.variables, expected.variables, rtol=1e-4)
    problems.assert_trees_close(sharded_history, history, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "max_bytes"),
    [*((method, 2**28) for method in curvature.fisher.METHODS), ("layers", 99)],
)
def test_fisher_does_not_depend_on_the_number_of_devices(digits, method, max_bytes):
    """Nor on how many examples' gradients each of them may hold at once."""
    task = convnet()
    variables = problems.init(task, digits)
    data = {k: v[:100] for k, v in digits.items()}

    def fisher(variables, data):
        options = {"method": method, "batch_size": 32, "max_bytes": max_bytes}
        return curvature.fisher_diagonal(task, variables, data, **options)

    expected = jax.jit(fisher)(variables, data)
    with jax.set_mesh(parallel.mesh()):
        actual = jax.jit(fisher)(variables, data)
    problems.assert_trees_close(actual, expected)


@pytest.mark.parametrize("transform", ["pmap", "shard_map"])
@pytest.mark.parametrize("model", ["mlp", "batch_norm"])
def test_axis_name_gives_the_global_update(digits, transform, model):
    """Also with running statistics, which must come out as those of the global batch."""
    if model == "mlp":
        task = local_task = problems.mlp()
    else:
        kwargs = dict(num_classes=10, stage_sizes=(1,), width=4)
        task = problems.linen(models.ResNet(**kwargs))
        local_task = problems.linen(models.ResNet(**kwargs, axis_name="batch"))
    variables, tx = problems.init(task, digits), optax.sgd(0.1)
    batch = batch_of(digits)
    if model == "batch_norm":
        # Flax's batch statistics know no weights; with equal ones the global mean is theirs.
        batch["weight"] = jnp.ones_like(batch["weight"])
    state = training.init_state(variables, tx)
    rng = jax.random.key(0)
    expected, sums = training.make_step(training.supervised(task), tx)(state, batch, rng)
    step = training.make_step(training.supervised(local_task), tx, axis_name="batch")
    if transform == "pmap":
        parts = jax.tree.map(lambda x: x.reshape(DEVICES, -1, *x.shape[1:]), batch)
        actual, actual_sums = jax.pmap(step, "batch", in_axes=(None, 0, None))(state, parts, rng)
        for device in range(DEVICES):
            own = jax.tree.map(lambda x, d=device: x[d], (actual, actual_sums))
            problems.assert_trees_close(own[0].variables, expected.variables)
            problems.assert_trees_close(own[1], sums)
        return
    mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
    mapped = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("batch"), P()), out_specs=(P(), P()))
    actual, actual_sums = jax.jit(mapped)(state, batch, rng)
    problems.assert_trees_close(actual.variables, expected.variables)
    problems.assert_trees_close(actual_sums, sums)


def test_constrain_is_the_identity_without_a_mesh_and_for_odd_sizes():
    batch = {"x": jnp.arange(6.0)}
    np.testing.assert_array_equal(parallel.constrain(batch)["x"], batch["x"])
    with jax.set_mesh(parallel.mesh()):
        np.testing.assert_array_equal(jax.jit(parallel.constrain)(batch)["x"], batch["x"])
    assert parallel.current() is None


def test_shard_refuses_what_the_devices_do_not_divide():
    with pytest.raises(ValueError, match="multiple of the 8 devices, got 6"):
        parallel.shard({"x": jnp.arange(6)}, parallel.mesh())


def test_a_host_gives_its_own_rows_and_they_make_the_global_batch():
    mesh = parallel.mesh()
    rows = parallel.local_rows(16, mesh)  # one host has all
    np.testing.assert_array_equal(rows, np.arange(16))
    batch = parallel.from_local({"x": rows * 2}, mesh)
    np.testing.assert_array_equal(batch["x"], np.arange(16) * 2)
    assert len(batch["x"].sharding.device_set) == DEVICES
    with pytest.raises(ValueError, match="multiple of the 8 devices, got 6"):
        parallel.local_rows(6, mesh)


def test_split_shardings_take_the_longest_axis_that_divides():
    mesh = parallel.mesh()
    tree = {
        "wide": jnp.ones((16, 64)),
        "tall": jnp.ones((64, 16)),
        "odd": jnp.ones((63, 16)),
        "none": jnp.ones((63, 15)),
        "small": jnp.ones(8),
        "scalar": jnp.ones(()),
    }
    specs = jax.tree.map(lambda s: s.spec, parallel.split_shardings(tree, mesh, min_size=32))
    assert specs == {
        "wide": P(None, "data"),
        "tall": P("data"),
        "odd": P(None, "data"),
        "none": P(),
        "small": P(),
        "scalar": P(),
    }


def test_a_model_split_over_devices_trains_as_a_whole_one_in_an_eighth_of_the_memory(digits):
    task, tx = problems.mlp(), optax.adam(1e-3)
    data = {k: v[:160] for k, v in digits.items()}
    step = training.make_step(training.supervised(task), tx)
    fresh = lambda rng: training.init_state(training.init_variables(task, data, rng), tx)
    epochs = lambda state: training.run_epochs(
        step, state, data, jnp.arange(160), jax.random.key(0), num_epochs=2, batch_size=32
    )[0]
    expected = jax.jit(epochs)(jax.jit(fresh)(jax.random.key(1)))
    mesh = parallel.mesh()
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(fresh, jax.random.key(1))
        shardings = parallel.split_shardings(shapes, mesh, min_size=64)
        state = jax.jit(fresh, out_shardings=shardings)(jax.random.key(1))
        program = jax.jit(epochs, out_shardings=shardings).lower(state).compile()
        actual = program(state)
    assert "all-gather" in program.as_text()
    whole = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    assert program.memory_analysis().output_size_in_bytes < whole / 4
    problems.assert_trees_close(actual.variables, expected.variables, rtol=1e-3)


def test_fetch_returns_numpy_arrays_of_sharded_values():
    mesh = parallel.mesh()
    fetched = parallel.fetch({"x": parallel.shard(jnp.arange(16), mesh), "y": jnp.ones(2)})
    assert isinstance(fetched["x"], np.ndarray)
    np.testing.assert_array_equal(fetched["x"], np.arange(16))


def test_initialize_wants_all_or_nothing():
    with pytest.raises(ValueError, match="given together or not at all"):
        parallel.initialize("localhost:1234", num_processes=2)
