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
from unlearnjax import curvature, models, tasks
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
        return nn.Dense(N, name="head")(x.reshape(N if x.size == N * N * N else -1, N, N).mean(1))


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
    "tuple_of_outputs": (lambda m, x: Pair()(x)[0] + Pair()(x)[1]["square"], ["Pair_0.Dense_0"]),
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
        lambda m, x: swapped(m, x, nn.RNN(nn.GRUCell(N), time_major=True)),
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
    """The rules and the definition are the loop, and the layers with a rule are those named."""
    batch = dict(batch)
    found = rules.find(task, variables, batch)
    assert sorted(layer.name for layer in found) == sorted(names)
    total, n = float(batch["weight"].sum()), len(batch["weight"])
    expected = jax.tree.map(lambda t: t / total, by_a_loop(task, variables, batch))

    @jax.jit
    def both(variables):
        return [
            curvature.fisher_diagonal(task, variables, batch, method=method, batch_size=n)
            for method in curvature.fisher.METHODS
        ]

    for actual in both(variables):
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(actual))
        problems.assert_trees_close(actual, expected, rtol=rtol)


@pytest.mark.parametrize("kind", BODIES)
def test_fisher_of_a_kind_of_layer_is_the_loop_over_examples(kind):
    body, names = BODIES[kind]
    task = problems.linen(Model(body))
    variables = task.init(jax.random.key(0), DATA)
    assert_right(task, variables, batch_of(), [*names, "head"])
