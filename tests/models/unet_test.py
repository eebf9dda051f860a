import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import models, trees
from unlearnjax.models import embeddings

MODULE = models.UNet(5, width=4, multiples=(1, 2), num_blocks=1, attention=(4,))
B, SIDE, C = 2, 8, 1
TIME, CONDITION = jnp.array([7, 400]), jnp.array([0, 5])
NOISED = jax.random.normal(jax.random.key(0), (B, SIDE, SIDE, C))


@pytest.fixture(scope="module")
def variables():
    """Anything but its start, which is 0."""
    shapes, rng = jax.eval_shape(fresh)["params"], np.random.default_rng(0)
    draw = lambda leaf: rng.normal(0.1, 0.3, leaf.shape).astype(np.float32)
    return {"params": jax.tree.map(draw, shapes)}


@jax.jit
def fresh():
    return MODULE.init(jax.random.key(1), NOISED, TIME, CONDITION)


@functools.partial(jax.jit, static_argnums=1)
def predict(variables, module=MODULE):
    return module.apply(variables, NOISED, TIME, CONDITION)["prediction"]


@pytest.fixture(scope="module")
def found(variables):
    return np.asarray(predict(variables))


def silu(x):
    return x / (1 + np.exp(-x))


def dense(of, x):
    return x @ of["kernel"] + of["bias"]


def conv(of, x, pads=((1, 1), (1, 1)), stride=1):
    """A 3x3 correlation of one image."""
    padded = np.pad(x, (*pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    return np.einsum("yxcij,ijco->yxo", windows[::stride, ::stride], of["kernel"]) + of["bias"]


def norm(of, x):
    """Four groups of neighbouring channels."""
    grouped = x.reshape(-1, 4, x.shape[-1] // 4)
    centred = grouped - grouped.mean((0, 2), keepdims=True)
    normal = centred / np.sqrt(grouped.var((0, 2), keepdims=True) + 1e-6)
    return normal.reshape(x.shape) * of["scale"] + of["bias"]


def by_hand(params, noised, time, condition):
    """The published network in NumPy, one image, in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def mlp(name, x):
        return dense(params[name]["out"], silu(dense(params[name]["in"], x)))

    waves = np.asarray(embeddings.waves(jnp.array([time]), 4), np.float64)[0]
    row = params["classes"]["rows"]["embedding"][condition]
    told = silu(np.concatenate([mlp("time", waves), mlp("class", row)]))

    def block(name, x):
        of = params[name]
        h = conv(of["conv_0"], silu(norm(of["norm_0"], x))) + dense(of["told"], told)
        h = conv(of["conv_1"], silu(norm(of["norm_1"], h)))
        return h + (dense(of["shortcut"], x) if "shortcut" in of else x)

    def attention(name, x):
        of = params[f"{name}_attention"]
        flat = dense(of["qkv"], norm(of["norm"], x)).reshape(-1, 3 * x.shape[-1])
        q, k, v = np.split(flat, 3, axis=1)
        scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        mixed = scores / scores.sum(1, keepdims=True) @ v
        return x + dense(of["out"], mixed).reshape(x.shape)

    first = conv(params["in"], noised)
    top = block("down_0_0", first)
    halved = conv(params["down_0"], top, ((0, 1), (0, 1)), 2)
    low = attention("down_1_0", block("down_1_0", halved))
    x = block("middle_1", attention("middle", block("middle_0", low)))
    for i, carried in enumerate((low, halved)):
        joined = np.concatenate([x, carried], axis=-1)
        x = attention(f"up_1_{i}", block(f"up_1_{i}", joined))
    x = conv(params["up_1"], np.kron(x, np.ones((2, 2, 1))))
    for i, carried in enumerate((top, first)):
        x = block(f"up_0_{i}", np.concatenate([x, carried], axis=-1))
    return conv(params["out"], silu(norm(params["out_norm"], x)))


def test_the_published_network_by_hand(variables, found):
    for i in range(B):
        given = np.asarray(NOISED[i], np.float64), int(TIME[i]), int(CONDITION[i])
        expected = by_hand(variables["params"], *given)
        np.testing.assert_allclose(
            found[i], expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max()
        )


def test_number_of_parameters_of_the_papers():
    """35,746,307 without classes (DDPM's); with them each of 22 blocks reads 512 numbers more."""
    given = jnp.ones((1, 32, 32, 3)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(models.UNet(10).init, jax.random.key(0), *given)
    blocks = 512 * (5 * 128 + 17 * 256)
    classes = 11 * 128 + (128 * 512 + 512) + (512 * 512 + 512)
    assert trees.size(shapes) == 35_746_307 + blocks + classes


def test_it_starts_as_zero_with_ddpm_s_spread():
    np.testing.assert_array_equal(predict(fresh()), np.zeros(NOISED.shape))
    params = fresh()["params"]
    leaves = dict(zip(trees.names(params), jax.tree.leaves(params), strict=True))
    ends = [name for name in leaves if name.endswith(("conv_1.kernel", "attention.out.kernel"))]
    assert len(ends) == 12 and not any(leaves[name].any() for name in ends)
    bound = np.sqrt(3 / ((9 * 4 + 9 * 8) / 2))  # uniform, of the mean of fan in and out
    kernel = leaves["down_1_0.conv_0.kernel"]
    assert kernel.shape == (3, 3, 4, 8) and 0.9 * bound < np.abs(kernel).max() <= bound


def test_dropout_acts_in_training(variables):
    assert MODULE.dropout == 0.1  # DDPM's
    module = MODULE.clone(dropout=0.5)
    given = variables, NOISED, TIME, CONDITION

    @jax.jit
    def of(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return module.apply(*given, train=True, rngs=rngs)["prediction"]

    assert np.abs(of(0) - of(1)).max() > 0.01
    np.testing.assert_array_equal(of(0), of(0))


def test_types(variables, found):
    half = predict(variables, MODULE.clone(dtype=jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, found, atol=0.1 * np.abs(found).max())
    assert np.abs(half - found).max() > 0
    with jax.enable_x64(True):
        noised = jax.ShapeDtypeStruct(NOISED.shape, jnp.float64)
        of = lambda v, x: MODULE.apply(v, x, TIME, CONDITION)["prediction"]
        assert jax.eval_shape(of, variables, noised).dtype == jnp.float64


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(
        ValueError, match=r"2 resolutions need sides that 2 divides, got images \(7, 8\)"
    ):
        MODULE.init(jax.random.key(0), jnp.ones((1, 7, 8, 1)), TIME[:1], CONDITION[:1])
