"""Models of many kinds of layers, every axis of which is as long as a batch of `N`."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from unlearnjax.models import layers

N = 4


class Branch(nn.Module):
    """A body that may make layers of its own."""

    body: Callable

    @nn.compact
    def __call__(self, x):
        return nn.tanh(self.body(self, x).reshape(-1, N, N)).mean(1)


class Model(nn.Module):
    """Branches side by side, and a head; many of them, since compiling one model is cheaper."""

    bodies: dict[str, Callable]

    @nn.compact
    def __call__(self, inputs, train=False):
        branches = [Branch(body, name=name)(inputs) for name, body in self.bodies.items()]
        return nn.Dense(N, name="head")(sum(branches))


def tokens(x):
    return jnp.abs(x[..., 0] * 10).astype(jnp.int32) % N


def table(module, x):
    rows = nn.Dense(N)(module.param("table", nn.initializers.normal(1.0), (N, N)))
    return x @ rows


def whole_table(module, x):
    rows = module.param("table", nn.initializers.normal(1.0), (N, N))
    return x * nn.DenseGeneral(N, axis=(0, 1))(rows)


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


# What it does, and which of its layers get a rule.
DENSE_LAYERS = {
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
}
NO_MERE_DENSE_LAYERS = {
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
}
OTHER_PRODUCTS = {
    "general": (
        lambda m, x: nn.DenseGeneral((2, 2))(x).reshape(-1, N, N),
        ["DenseGeneral_0"],
    ),
    "general_two_axes": (
        lambda m, x: nn.DenseGeneral((N, 2), axis=(1, -1))(x).repeat(2, 2) * x,
        ["DenseGeneral_0"],
    ),
    "general_last_axis_by_number": (lambda m, x: nn.DenseGeneral(N, axis=2)(x), ["DenseGeneral_0"]),
    "general_whole_table": (
        whole_table,
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
}
OTHER_LAYERS = {
    "embedding": (lambda m, x: nn.Embed(N, N)(tokens(x)), []),
    "embedding_tied": (tied, ["Dense_0"]),
    "norms": (norms, []),
    "weight_norm": (lambda m, x: nn.WeightNorm(nn.Dense(N))(x), []),
    "spectral_norm": (lambda m, x: nn.SpectralNorm(nn.Dense(N))(x, update_stats=False), []),
    "recurrent_time_major": (
        lambda m, x: swapped(m, x, recurrent),
        [],
    ),
}
TRANSFORMS = {
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

BRANCHES = {
    "dense": DENSE_LAYERS,
    "no_mere_dense": NO_MERE_DENSE_LAYERS,
    "products": OTHER_PRODUCTS,
    "others": OTHER_LAYERS,
    "transforms": TRANSFORMS,
}
