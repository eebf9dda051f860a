"""Every kind of layer against a loop of single-example gradients in float64.

All axes of all models are as long as the batch, so that none can be told from it by its length.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import problems
from tests.curvature import kinds
from unlearnjax import curvature, models, tasks
from unlearnjax.curvature import layers as rules

N = kinds.N
DATA = {
    "inputs": jax.random.normal(jax.random.key(7), (N, N, N)),
    "targets": jnp.array([2, 0, 3, 1]),
    "weight": jnp.array([1.0, 0.0, 2.0, 0.5]),
}


def batch_of(n=N, **columns):
    return {k: v[:n] for k, v in (DATA | columns).items()}


def by_a_loop(task, variables, batch):
    """In float64, one example after the other, no `vmap`."""
    with jax.enable_x64(True):
        real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
        wide = lambda x: jnp.asarray(np.asarray(x, np.float64) if real(x) else x)
        variables, batch = jax.tree.map(wide, (variables, batch))
        leaves, treedef = jax.tree.flatten(variables["params"])
        own = {i: leaf for i, leaf in enumerate(leaves) if real(leaf)}

        @jax.jit
        def gradient(example):
            def loss(own):
                params = treedef.unflatten([own.get(i, leaf) for i, leaf in enumerate(leaves)])
                outputs, _ = task.apply({**variables, "params": params}, example, None, False)
                return task.loss(outputs, example)[0]

            return jax.grad(loss)(own)

        total = [np.zeros(leaf.shape) for leaf in leaves]
        for n, weight in enumerate(batch["weight"]):
            found = gradient({k: v[n : n + 1] for k, v in batch.items()})
            for i in own:
                total[i] += float(weight) * np.asarray(found[i]) ** 2
    return treedef.unflatten(total)


def assert_right(task, variables, batch, names, rtol=1e-5):
    """The squares are those of the loop, and the layers with a rule are those named."""
    found = rules.find(task, variables, batch)
    assert sorted(layer.name for layer in found) == sorted(names)
    expected = by_a_loop(task, variables, batch)

    actual = jax.jit(lambda v: rules.summed_squares(task, v, batch))(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(actual))
    for name in actual:  # tolerances are relative to the largest value of a branch
        problems.assert_trees_close({name: actual[name]}, {name: expected[name]}, rtol=rtol)


def of_branches(branches):
    """A task, its variables, and the layers that get a rule."""
    task = problems.linen(kinds.Model({kind: body for kind, (body, _) in branches.items()}))
    names = [f"{kind}.{name}" for kind, (_, names) in branches.items() for name in names]
    return task, jax.jit(task.init)(jax.random.key(0), DATA), [*names, "head"]


@pytest.mark.parametrize("group", kinds.BRANCHES)
def test_fisher_of_kinds_of_layers_is_the_loop_over_examples(group):
    task, variables, names = of_branches(kinds.BRANCHES[group])
    assert_right(task, variables, batch_of(), names)


HOUSE = {
    "mlp": (models.MLP(N, hidden=(5,)), ["Dense_0", "Dense_1"]),
    "convnet": (
        models.ConvNet(N, channels=(2, 3), hidden=4),
        ["Conv_0", "Conv_1", "Dense_0", "Dense_1"],
    ),
    "resnet": (models.ResNet(N, stage_sizes=(1, 1), width=2), None),
    "vit": (models.ViT(N, width=6, depth=1, num_heads=2), None),
}


@pytest.mark.parametrize("name", HOUSE)
def test_every_kernel_of_the_models_here_has_a_rule(name):
    """So that nothing large takes the slow way; computes nothing."""
    module, names = HOUSE[name]
    task, data = problems.linen(module), problems.digits(2)
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), data))
    variables = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    found = [layer.name for layer in rules.find(task, variables, data)]
    paths = jax.tree_util.tree_leaves_with_path(variables["params"])
    kernels = [path for path, _ in paths if path[-1].key == "kernel"]
    assert sorted(found) == sorted(".".join(key.key for key in path[:-1]) for path in kernels)
    assert names is None or found == names


@pytest.mark.parametrize("n", [1, 3])
def test_neither_does_a_batch_of_another_length_change_anything(n):
    branches = {"swapped": (kinds.swapped, ["Dense_0"]), "table": (kinds.table, ["Dense_0"])}
    task, variables, names = of_branches(branches)
    assert_right(task, variables, batch_of(n), names)


def plain(apply, params):
    """A task from functions, and its variables."""
    model = tasks.Model(
        lambda rng, batch: {"params": params},
        lambda v, batch, rng, train: ({"logits": apply(v["params"], batch["inputs"])}, v),
    )
    return tasks.classification(model), {"params": params}


DENSE = {
    "kernel": jax.random.normal(jax.random.key(1), (N, N)),
    "bias": jax.random.normal(jax.random.key(2), (N,)),
}
dense = lambda params, x: nn.Dense(N).apply({"params": params}, x)
one_by_one = lambda params, x: jax.vmap(lambda row: dense(params, row))(x).mean(1)


def empty(params):
    """A layer without inputs, which has a bias alone."""
    layer = nn.Dense(N, kernel_init=nn.initializers.zeros)
    return layer.apply({"params": params}, jnp.zeros((1, 0)))


def turn_by_turn(params, x):
    return jax.lax.scan(lambda c, row: (c + dense(params, row), None), x[:, 0], x.swapaxes(0, 1))[0]


def added_twice(params, x):
    """The same array under two names, of which one has a layer."""
    return dense(params["one"], x.mean(1)) @ params["two"]["kernel"]


def both_layers(params, x):
    return dense(params["one"], nn.tanh(dense(params["two"], x.mean(1))))


# What it computes, its parameters, and which layers get a rule.
FUNCTIONS = {
    "without_modules": (lambda p, x: x.mean(1) @ p["kernel"] + p["bias"], DENSE, []),
    "no_group": (lambda p, x: dense(p, x).mean(1), DENSE, [""]),
    "inner_vmap": (one_by_one, DENSE, []),
    "inner_scan": (turn_by_turn, DENSE, []),
    "inner_checkpoint": (
        lambda p, x: jax.checkpoint(lambda x: dense(p, x))(x).mean(1),
        DENSE,
        [],
    ),
    "jit": (jax.jit(lambda p, x: dense(p, x).mean(1)), DENSE, []),
    "jit_of_the_first_layer": (
        # What is compiled already is not called again.
        lambda p, x: dense(p["one"], compiled(p["two"], x.mean(1))),
        {"one": DENSE, "two": jax.tree.map(jnp.sin, DENSE)},
        ["one"],
    ),
    "stopped_elsewhere": (
        lambda p, x: dense(p, x.mean(1)) @ jax.lax.stop_gradient(p["kernel"]),
        DENSE,
        [],
    ),
    "one_array_twice": (both_layers, {"one": DENSE, "two": DENSE}, ["one", "two"]),
    "one_array_twice_without_layer": (added_twice, {"one": DENSE, "two": DENSE}, ["one"]),
    "bfloat16": (
        lambda p, x: dense(p, x.astype(jnp.bfloat16)).mean(1).astype(jnp.float32),
        jax.tree.map(lambda p: p.astype(jnp.bfloat16), DENSE),
        [""],
    ),
    "integers": (
        lambda p, x: dense(p["one"], x.mean(1) @ p["count"]),
        {"one": DENSE, "count": jnp.arange(N * N).reshape(N, N)},
        ["one"],
    ),
    "kernel_of_integers": (
        lambda p, x: dense({**p, "kernel": p["kernel"]}, x).mean(1),
        {**DENSE, "kernel": jnp.arange(N * N).reshape(N, N) % 3},
        [],
    ),
    "frozen_kernel": (lambda p, x: dense({**DENSE, **p}, x).mean(1), {"bias": DENSE["bias"]}, []),
    "no_input": (
        lambda p, x: empty(p["one"]) + x.mean(1) @ p["two"],
        {"one": {**DENSE, "kernel": jnp.zeros((0, N))}, "two": DENSE["kernel"]},
        [],
    ),
}
compiled = jax.jit(lambda params, x: nn.tanh(dense(params, x)))


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_fisher_of_functions_is_the_loop_over_examples(kind):
    apply, params, names = FUNCTIONS[kind]
    task, variables = plain(apply, params)
    assert_right(task, variables, batch_of(), names, rtol=1e-2 if kind == "bfloat16" else 1e-5)


def test_fisher_of_an_nnx_module_is_the_loop_over_examples():
    class Perceptron(nnx.Module):
        def __init__(self, rngs):
            self.first, self.norm = nnx.Linear(N, N, rngs=rngs), nnx.BatchNorm(N, rngs=rngs)

        def __call__(self, x):
            return self.norm(self.first(x.mean(1)))

    task = tasks.classification(tasks.from_nnx(Perceptron))
    assert_right(task, task.init(jax.random.key(0), {}), batch_of(), [])


def test_a_loss_that_reads_parameters_of_a_layer_is_seen():
    task, variables = plain(lambda p, x: dense(p, x).mean(1), DENSE)
    penalised = lambda outputs, batch: task.loss(outputs, batch) * (1 + outputs["size"])
    apply = lambda v, *args: (
        {**task.apply(v, *args)[0], "size": jnp.sum(v["params"]["kernel"] ** 2)},
        v,
    )
    assert_right(task._replace(apply=apply, loss=penalised), variables, batch_of(), [])


@pytest.mark.parametrize("max_bytes", [1, 2**10])
def test_chunks_are_summed(max_bytes):
    """Of the parameters without a rule, of rows of a layer, and of layers of one row."""
    body = lambda m, x: nn.LayerNorm()(nn.Dense(N)(x) + nn.Dense(N)(x.mean(1))[:, None])
    task, variables, _ = of_branches({"body": (body, [])})
    batch = batch_of()
    fisher = jax.jit(lambda v: rules.summed_squares(task, v, batch, max_bytes))(variables)
    problems.assert_trees_close(fisher, by_a_loop(task, variables, batch))


@pytest.mark.parametrize(("max_bytes", "at_once"), [(1, 1), (80, 2), (119, 2), (160, 4)])
@pytest.mark.parametrize("name", ["kernel", "other"])
def test_no_more_gradients_at_once_than_asked_for(name, max_bytes, at_once):
    """Each of 40 bytes: of a kernel that meets several rows, or of a parameter without a rule."""
    kernel, bias, other = jnp.ones((2, 5)), jnp.ones(5), jnp.ones((10, 1))

    def apply(params, x):
        own = {"kernel": kernel, "bias": bias} | params.get("layer", {})
        x = nn.Dense(5).apply({"params": own}, x[..., :2])
        return (x + params.get("other", other).sum()).mean(1)

    params = {"layer": {"kernel": kernel, "bias": bias}} if name == "kernel" else {"other": other}
    task, variables = plain(apply, params)
    batch = batch_of()
    squares = lambda v: rules.summed_squares(task, v, batch, max_bytes)
    shape = (2, 5) if name == "kernel" else (10, 1)
    seen = problems.shapes(squares, variables)
    assert max(s[0] for s in seen if s[1:] == shape) == at_once


def test_gradients_are_made_of_what_is_captured():
    branches = {"one": kinds.DENSE_LAYERS["dense_on_one_row"]}
    branches["general"] = kinds.OTHER_PRODUCTS["general_two_axes"]
    task, variables, names = of_branches(branches)
    batch = batch_of()
    gradients = curvature.per_example_gradients(task, variables, batch)
    leaves = dict(jax.tree_util.tree_leaves_with_path(gradients))
    layers = rules.captured(task, variables, batch)
    assert sorted(layer.name for layer, _, _ in layers) == sorted(names)
    for layer, inputs, cotangents in layers:
        rows, outputs = layer.rows(inputs, cotangents)
        kernel, bias = (leaves[layer.paths[part]] for part in ("kernel", "bias"))
        product = jnp.einsum("nri,nro->nio", rows, outputs).reshape(kernel.shape)
        np.testing.assert_allclose(product, kernel, atol=1e-6)
        np.testing.assert_allclose(outputs.sum(1).reshape(bias.shape), bias, atol=1e-6)
