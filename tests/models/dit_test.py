import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import models, trees
from unlearnjax.models import embeddings

MODULE = models.DiT(5, width=8, depth=2, num_heads=2)
B, H, W, C = 3, 4, 6, 2
TIME, CONDITION = jnp.array([0, 7, 400]), jnp.array([4, 0, 5])
NOISED = jax.random.normal(jax.random.key(0), (B, H, W, C))


@pytest.fixture(scope="module")
def variables():
    """Anything but its start, which is 0."""
    shapes, rng = jax.eval_shape(fresh)["params"], np.random.default_rng(0)
    draw = lambda leaf: rng.normal(0.1, 0.3, leaf.shape).astype(np.float32)
    return {"params": jax.tree.map(draw, shapes)}


@jax.jit
def fresh():
    return MODULE.init(jax.random.key(1), NOISED, TIME, CONDITION)


@functools.partial(jax.jit, static_argnums=2)
def predict(variables, noised=NOISED, module=MODULE):
    return module.apply(variables, noised, TIME, CONDITION)["prediction"]


def by_hand(params, noised, time, condition):
    """The paper's block in NumPy, one image at a time, in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    dense = lambda name, x, of=params: x @ of[name]["kernel"] + of[name]["bias"]
    silu = lambda x: x / (1 + np.exp(-x))

    def modulated(x, shift, scale):
        centred = x - x.mean(-1, keepdims=True)
        normal = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return normal * (1 + scale) + shift

    def attention(of, x):
        q, k, v = np.split(dense("qkv", x, of), 3, axis=-1)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            scores = q[:, part] @ k[:, part].T / np.sqrt(4)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            heads.append(weights / weights.sum(1, keepdims=True) @ v[:, part])
        return dense("out", np.concatenate(heads, axis=1), of)

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    waves = np.asarray(embeddings.waves(jnp.array([time]), 8), np.float64)[0]
    told = dense("time_out", silu(dense("time_in", waves)))
    told = silu(told + params["classes"]["rows"]["embedding"][condition])
    corners = [(y, x) for y in range(0, H, 2) for x in range(0, W, 2)]
    patches = [noised[y : y + 2, x : x + 2].reshape(-1) for y, x in corners]
    x = dense("patches", np.array(patches)) + np.asarray(embeddings.grid_positions(2, 3, 8))
    for i in range(2):
        of = params[f"block_{i}"]
        shift, scale, gate, shift_2, scale_2, gate_2 = np.split(dense("modulation", told, of), 6)
        x = x + gate * attention(of["attention"], modulated(x, shift, scale))
        hidden = gelu(dense("mlp_in", modulated(x, shift_2, scale_2), of))
        x = x + gate_2 * dense("mlp_out", hidden, of)
    shift, scale = np.split(dense("modulation", told), 2)
    pixels = dense("pixels", modulated(x, shift, scale))
    image = np.zeros((H, W, C))
    for (y, x), patch in zip(corners, pixels, strict=True):
        image[y : y + 2, x : x + 2] = patch.reshape(2, 2, C)
    return image


def test_the_paper_s_network_by_hand(variables):
    found = predict(variables)
    for i in range(B):
        given = np.asarray(NOISED[i], np.float64), int(TIME[i]), int(CONDITION[i])
        expected = by_hand(variables["params"], *given)
        np.testing.assert_allclose(found[i], expected, rtol=1e-3, atol=1e-4)


def test_it_starts_as_zero_and_its_blocks_as_the_identity():
    np.testing.assert_array_equal(predict(fresh()), np.zeros(NOISED.shape))
    params = fresh()["params"]
    leaves = zip(trees.names(params), jax.tree.leaves(params), strict=True)
    modulations = [leaf for name, leaf in leaves if "modulation" in name]
    assert len(modulations) == 6 and not any(leaf.any() for leaf in modulations)


@pytest.mark.parametrize(("own", "w", "depth"), [({"width": 64, "depth": 3}, 64, 3), ({}, 96, 4)])
def test_number_of_parameters(own, w, depth):
    """On digits, counted by hand."""
    module = models.DiT(10, **own)
    given = jnp.ones((1, 8, 8, 1)), jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *given)
    told = 2 * (w * w + w) + 11 * w
    block = (w * 6 * w + 6 * w) + (w * 3 * w + 3 * w) + (w * w + w) + (8 * w * w + 5 * w)
    ends = (4 * w + w) + (w * 2 * w + 2 * w) + (w * 4 + 4)
    assert trees.size(shapes) == told + depth * block + ends


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_types(variables, dtype):
    with jax.enable_x64(dtype == "float64"):
        module = MODULE.clone(dtype=jnp.dtype(dtype))
        noised = NOISED if dtype == "bfloat16" else jnp.asarray(np.asarray(NOISED, np.float64))
        found = predict(variables, noised, module)
        assert found.dtype == ("float32" if dtype == "bfloat16" else "float64")
        np.testing.assert_allclose(found, predict(variables), atol=0.1)
        start = jax.eval_shape(module.init, jax.random.key(1), NOISED, TIME, CONDITION)
        assert {leaf.dtype for leaf in jax.tree.leaves(start)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 4}, r"patch_size must divide the image \(4, 6\), got 4"),
        ({"patch_size": 3}, r"patch_size must divide the image \(4, 6\), got 3"),
        ({"width": 10}, "width must be a multiple of 4 and of num_heads 2, got 10"),
        ({"num_heads": 3}, "width must be a multiple of 4 and of num_heads 3, got 8"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MODULE.clone(**options).init(jax.random.key(0), NOISED, TIME, CONDITION)
