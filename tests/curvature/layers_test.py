"""Every kind of layer against a loop of single-example gradients in float64.

All axes of all models are as long as the batch, so that none can be told from it by its length.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests import problems
from unlearnjax import models, tasks
from unlearnjax.curvature import layers as rules
from unlearnjax.models import layers

N = 4
DATA = {
    "inputs": jax.random.normal(jax.random.key(7), (N, N, N)),
    "targets": jnp.array([2, 0, 3, 1]),
    "weight": jnp.array([1.0, 0.0, 2.0, 0.5]),
}


class Model(nn.Module):
    """A body that may make layers of its own, and a head."""

    body: Callable

    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.tanh(self.body(self, inputs))
        return nn.Dense(N, name="head")(x.reshape(-1, N, N).mean(1))


def tokens(x):
    return jnp.abs(x[..., 0] * 10).astype(jnp.int32) % N


def table(module, x):
    rows = nn.Dense(N)(module.param("table", nn.initializers.normal(1.0), (N, N)))
    return x @ rows


def tied(module, x):
    embed = nn.Embed(N, N)
    return embed.attend(nn.tanh(nn.Dense(N)(embed(tokens(x)))))


def read_again(module, x):
    dense = nn.Dense(N)
    return nn.tanh(dense(x)) @ dense.variables["params"]["kernel"]


def input_of_another(module, x):
    first, second = nn.Dense(N), nn.Dense(N)
    x = nn.tanh(first(x))
    return second(x @ first.variables["params"]["kernel"])


def own_input(module, x):
    dense = nn.Dense(N)
    if module.is_initializing():
        return dense(x)
    return dense(x @ dense.variables["params"]["kernel"])


def lifted(transform, *args, **kwargs):
    return lambda module, x: transform(nn.Dense, *args, **kwargs)(N)(x)


def vmapped(axis, **kwargs):
    return lifted(nn.vmap, in_axes=axis, out_axes=axis, **kwargs)


SHARED = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
SPLIT = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(N)(x)), None


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(N)(x), {"square": x**2}


class Wider(nn.Dense):
    """A dense layer that is more than its name says."""

    def __call__(self, inputs):
        return super().__call__(2 * inputs)


def twice(module, x):
    dense = nn.Dense(N)
    return dense(nn.tanh(dense(x)))


def norms(module, x):
    x = nn.LayerNorm()(x) + nn.GroupNorm(2)(x)
    return nn.BatchNorm(use_running_average=True)(x)


def scanned(module, x):
    return nn.scan(Block, **SPLIT, length=2)()(x, None)[0]


def stopped(module, x):
    return x + jax.lax.stop_gradient(nn.Dense(N)(x))


def doubling(next_fun, args, kwargs, context):
    return (
        next_fun(*(2 * x for x in args)) if context.method_name == "__call__" else next_fun(*args)
    )


def intercepted(module, x):
    with nn.intercept_methods(doubling):
        return nn.Dense(N)(x)


def first_product(x, y, dimensions, precision=None):
    return 3 * jax.lax.dot_general(x, y, dimensions, precision)


def swapped(module, x, layer=lambda x: nn.Dense(N)(x)):
    return layer(x.swapaxes(0, 1)).swapaxes(0, 1)


def recurrent(x):
    return nn.RNN(nn.GRUCell(N), time_major=True)(x, initial_carry=jnp.zeros_like(x[0]))


# What it does, and which layers beside the head get a rule.
BODIES = {
    "dense": (lambda m, x: nn.Dense(N)(x), ["Dense_0"]),
    "dense_without_bias": (lambda m, x: nn.Dense(N, use_bias=False)(x), ["Dense_0"]),
    "dense_on_one_row": (lambda m, x: x + nn.Dense(N)(x.mean(1))[:, None], ["Dense_0"]),
    "dense_time_major": (swapped, ["Dense_0"]),
    "dense_examples_last": (
        lambda m, x: nn.Dense(N)(x.transpose(2, 1, 0)[..., None]).mean(-1).transpose(2, 1, 0),
        ["Dense_0"],
    ),
    "dense_on_all_rows": (lambda m, x: nn.Dense(N)(x.reshape(-1, N)), ["Dense_0"]),
    "dense_on_a_table": (table, ["Dense_0"]),
    "dense_by_keyword": (lambda m, x: nn.Dense(N)(inputs=x), ["Dense_0"]),
    "dense_twice": (twice, []),
    "dense_read_again": (read_again, []),
    "dense_read_for_another": (input_of_another, ["Dense_1"]),
    "dense_read_for_itself": (own_input, []),
    "dense_stopped": (stopped, ["Dense_0"]),
    "dense_subclass": (lambda m, x: Wider(N)(x), []),
    "dense_intercepted": (intercepted, []),
    "dense_other_product": (lambda m, x: nn.Dense(N, dot_general=first_product)(x), []),
    "dense_other_types": (
        lambda m, x: nn.Dense(N, promote_dtype=lambda x, k, b, **_: (2 * x, k, b))(x),
        [],
    ),
    "tuple_of_outputs": (lambda m, x: sum(jax.tree.leaves(Pair()(x))), ["Pair_0.Dense_0"]),
    "general": (
        lambda m, x: nn.DenseGeneral((2, 2))(x).reshape(-1, N, N),
        ["DenseGeneral_0"],
    ),
    "general_two_axes": (
        lambda m, x: nn.DenseGeneral((N, 2), axis=(1, -1))(x).repeat(2, 2) * x,
        ["DenseGeneral_0"],
    ),
    "general_first_axis": (lambda m, x: nn.DenseGeneral(N, axis=1)(x), []),
    "general_over_examples": (
        lambda m, x: nn.DenseGeneral(N, axis=-1, batch_dims=0)(x.swapaxes(0, 1)).swapaxes(0, 1),
        [],
    ),
    "einsum": (lambda m, x: nn.Einsum((N, N), "btf,fg->btg")(x), []),
    "attention": (
        lambda m, x: nn.MultiHeadDotProductAttention(2)(x, x),
        [f"MultiHeadDotProductAttention_0.{name}" for name in ("query", "key", "value", "out")],
    ),
    "convolution": (
        lambda m, x: layers.Conv(2, (3, 3), (1, 2))(x[..., None]).reshape(-1, N, N),
        ["Conv_0"],
    ),
    "convolution_to_one": (
        lambda m, x: x * layers.Conv(N, (N, N), padding="VALID")(x[..., None])[..., 0],
        ["Conv_0"],
    ),
    "convolution_of_columns": (
        lambda m, x: layers.Conv(1)(x.reshape(-1, 2, 2, 1)).reshape(-1, N, N),
        ["Conv_0"],
    ),
    "convolution_in_groups": (
        lambda m, x: nn.Conv(N, (3,), feature_group_count=2)(x),
        [],
    ),
    "convolution_transposed": (lambda m, x: nn.ConvTranspose(N, (3,))(x), []),
    "embedding": (lambda m, x: nn.Embed(N, N)(tokens(x)), []),
    "embedding_tied": (tied, ["Dense_0"]),
    "norms": (norms, []),
    "weight_norm": (lambda m, x: nn.WeightNorm(nn.Dense(N))(x), []),
    "spectral_norm": (lambda m, x: nn.SpectralNorm(nn.Dense(N))(x, update_stats=False), []),
    "recurrent_time_major": (
        lambda m, x: swapped(m, x, recurrent),
        [],
    ),
    "vmap_shared_over_examples": (vmapped(0, **SHARED), []),
    "vmap_shared_over_positions": (vmapped(1, **SHARED), []),
    "vmap_split": (vmapped(1, **SPLIT), []),
    "scan": (scanned, []),
    "remat": (lifted(nn.remat), []),
    "map_variables": (
        lifted(
            nn.map_variables,
            "params",
            lambda tree: jax.tree.map(lambda p: 2 * p, tree),
            init=True,
        ),
        [],
    ),
}


def batch_of(n=N, **columns):
    return {k: v[:n] for k, v in (DATA | columns).items()}


def by_a_loop(task, variables, batch):
    """In float64, one example after the other, no `vmap`."""
    with jax.enable_x64(True):
        wide = lambda x: jnp.asarray(
            np.asarray(x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, np.float64)
            if jnp.issubdtype(x.dtype, jnp.floating)
            else x
        )
        variables, batch = jax.tree.map(wide, (variables, batch))
        leaves, treedef = jax.tree.flatten(variables["params"])
        real = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

        @jax.jit
        def gradient(example):
            def loss(own):
                params = treedef.unflatten([own.get(i, leaf) for i, leaf in enumerate(leaves)])
                outputs, _ = task.apply({**variables, "params": params}, example, None, False)
                return task.loss(outputs, example)[0]

            return jax.grad(loss)({i: leaves[i] for i in real})

        total = [np.zeros(leaf.shape) for leaf in leaves]
        for n, weight in enumerate(batch["weight"]):
            found = gradient({k: v[n : n + 1] for k, v in batch.items()})
            for i in real:
                total[i] += float(weight) * np.asarray(found[i]) ** 2
    return treedef.unflatten(total)


def assert_right(task, variables, batch, names, rtol=1e-5):
    """The squares are those of the loop, and the layers with a rule are those named."""
    found = rules.find(task, variables, batch)
    assert sorted(layer.name for layer in found) == sorted(names)
    expected = by_a_loop(task, variables, batch)

    actual = jax.jit(lambda v: rules.summed_squares(task, v, batch))(variables)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(actual))
    problems.assert_trees_close(actual, expected, rtol=rtol)


@pytest.mark.parametrize("kind", BODIES)
def test_fisher_of_a_kind_of_layer_is_the_loop_over_examples(kind):
    body, names = BODIES[kind]
    task = problems.linen(Model(body))
    variables = jax.jit(task.init)(jax.random.key(0), DATA)
    assert_right(task, variables, batch_of(), [*names, "head"])


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
    body = lambda m, x: swapped(m, x) + table(m, x)
    task = problems.linen(Model(body))
    variables = jax.jit(task.init)(jax.random.key(0), DATA)
    assert_right(task, variables, batch_of(n), ["Dense_0", "Dense_1", "head"])


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
    task = problems.linen(Model(body))
    variables = jax.jit(task.init)(jax.random.key(0), DATA)
    batch = batch_of()
    fisher = jax.jit(lambda v: rules.summed_squares(task, v, batch, max_bytes))(variables)
    problems.assert_trees_close(fisher, by_a_loop(task, variables, batch))
