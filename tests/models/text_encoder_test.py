import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import models, trees

MODULE = models.TextEncoder(7, end=1, length=6, width=8, depth=2, num_heads=2)
# The second is filled up to the end, the last has two tokens alone.
TOKENS = jnp.array([[0, 4, 2, 5, 1, 1], [0, 3, 1, 1, 1, 1], [0, 6, 5, 4, 3, 1], [0, 1, 1, 1, 1, 1]])


@functools.partial(jax.jit, static_argnums=2)
def encode(variables, tokens=TOKENS, module=MODULE):
    return module.apply(variables, tokens)


@pytest.fixture(scope="module")
def variables():
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), TOKENS)["params"]
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(np.float32)
    return {"params": jax.tree.map(draw, shapes)}


def by_hand(params, tokens):
    """The encoder in NumPy, one prompt at a time and token by token, in float64."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    dense = lambda of, x: x @ of["kernel"] + of["bias"]

    def norm(of, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * of["scale"] + of["bias"]

    def attention(of, x):
        q, k, v = np.split(dense(of["qkv"], x), 3, axis=-1)
        found = np.zeros_like(x)
        for i in range(len(x)):
            for part in (slice(0, 4), slice(4, 8)):
                scores = k[: i + 1, part] @ q[i, part] / np.sqrt(4)
                weights = np.exp(scores - scores.max())
                found[i, part] = weights / weights.sum() @ v[: i + 1, part]
        return dense(of["out"], found)

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = params["tokens"]["embedding"][tokens] + params["positions"][: len(tokens)]
    for i in range(2):
        of = params[f"layer_{i}"]
        x = x + attention(of["attention"], norm(of["attention_norm"], x))
        x = x + dense(of["mlp_out"], gelu(dense(of["mlp_in"], norm(of["mlp_norm"], x))))
    return norm(params["norm"], x)


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_the_encoder_by_hand(variables, size):
    """Of small embeddings, too, whose norm is held by its epsilon."""
    read = {name: variables["params"][name] for name in ("tokens", "positions")}
    small = jax.tree.map(lambda x: np.float32(size) * x, read)
    variables = {"params": {**variables["params"], **small}}
    found = encode(variables)
    for row, tokens in enumerate(np.asarray(TOKENS)):
        expected = by_hand(variables["params"], tokens)
        np.testing.assert_allclose(found["hidden"][row], expected, rtol=1e-3, atol=1e-4)
        first = tokens.tolist().index(1)
        np.testing.assert_allclose(found["pooled"][row], expected[first], rtol=1e-3, atol=1e-4)


def test_tokens_see_those_before_them_alone(variables):
    """So what fills a prompt up does not change what is said of it, but is itself attended."""
    base = encode(variables)
    other = encode(variables, TOKENS.at[:, 5].set(2))
    np.testing.assert_array_equal(other["hidden"][:, :5], base["hidden"][:, :5])
    assert np.abs(other["hidden"][:, 5] - base["hidden"][:, 5]).max() > 0.01
    short = encode(variables, TOKENS[:, :4])["hidden"]
    np.testing.assert_allclose(short, base["hidden"][:, :4], rtol=1e-5, atol=1e-6)
    earlier = encode(variables, TOKENS.at[1, 3].set(2))["hidden"][1]  # of what fills it up
    assert np.abs(earlier[4:] - base["hidden"][1, 4:]).min(1).max() > 1e-4


def test_order_of_words_and_prompts(variables):
    base = encode(variables)["hidden"]
    order = np.array([2, 0, 3, 1])
    permuted = encode(variables, TOKENS[order])["hidden"]
    np.testing.assert_allclose(permuted, base[order], rtol=1e-5, atol=1e-6)
    swapped = encode(variables, TOKENS[:, jnp.array([0, 2, 1, 3, 4, 5])])
    assert np.abs(swapped["pooled"][0] - encode(variables)["pooled"][0]).max() > 0.01


def test_unknown_tokens_and_prompts_without_an_end_are_no_numbers(variables):
    wrong = TOKENS.at[0, 3].set(7).at[1, 3].set(-1).at[2, 5].set(2)
    found = encode(variables, wrong)
    assert np.isnan(found["hidden"][:2]).all() and np.isfinite(found["hidden"][2:]).all()
    assert np.isnan(found["pooled"][:3]).all() and np.isfinite(found["pooled"][3]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_types(variables, dtype):
    with jax.enable_x64(dtype == "float64"):
        found = encode(variables, TOKENS, MODULE.clone(dtype=jnp.dtype(dtype)))
        wanted = "float32" if dtype == "bfloat16" else "float64"
        assert found["hidden"].dtype == found["pooled"].dtype == wanted
        np.testing.assert_allclose(found["hidden"], encode(variables)["hidden"], atol=0.1)


def test_number_of_parameters():
    """By default on 30 words, counted by hand."""
    w = 64
    layer = 4 * w + (3 * w * w + 3 * w) + (w * w + w) + (8 * w * w + 5 * w)
    shapes = jax.eval_shape(models.TextEncoder(30).init, jax.random.key(0), jnp.ones((1, 12), int))
    assert trees.size(shapes) == 30 * w + 12 * w + 2 * layer + 2 * w


def test_words_and_places_start_as_in_clip():
    params = jax.jit(MODULE.clone(vocabulary=400, length=300).init)(jax.random.key(0), TOKENS)
    params = params["params"]
    np.testing.assert_allclose(params["tokens"]["embedding"].std(), 0.02, rtol=0.05)
    np.testing.assert_allclose(params["positions"].std(), 0.01, rtol=0.05)


@pytest.mark.parametrize(
    ("options", "tokens", "message"),
    [
        ({"num_heads": 3}, TOKENS, "width must be a multiple of num_heads 3, got 8"),
        ({"length": 5}, TOKENS, r"tokens must be \[B, L\], L at most 5, got \[4, 6\]"),
        ({}, TOKENS[0], r"tokens must be \[B, L\], L at most 6, got \[6\]"),
    ],
)
def test_bad_input_is_refused(options, tokens, message):
    with pytest.raises(ValueError, match=message):
        MODULE.clone(**options).init(jax.random.key(0), tokens)
