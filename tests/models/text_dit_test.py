import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearnjax import diffusion, models, tasks, training, trees
from unlearnjax.models import embeddings

DENOISER = models.CrossDiT(width=8, depth=2, num_heads=2)
B, H, W, C = 3, 4, 6, 2
L, D = 5, 6
TIME = jnp.array([0, 7, 400])
NOISED = jax.random.normal(jax.random.key(0), (B, H, W, C))
TEXT = jax.random.normal(jax.random.key(1), (B, L, D))
ENCODER = models.TextEncoder(9, length=L, width=D, depth=1, num_heads=2)
MODULE = models.TextDiT(ENCODER, width=8, depth=2, num_heads=2)
PROMPTS = jnp.array([[0, 4, 2, 1, 1], [0, 8, 1, 1, 1], [0, 5, 6, 7, 1]])
PROCESS = diffusion.Process(diffusion.cosine(500), (H, W, C), (0, 1, 1, 1, 1))
TASK = tasks.diffusion(tasks.from_linen(MODULE, ("noised", "time", "condition")), PROCESS)
BATCH = {"noised": NOISED, "time": TIME, "condition": PROMPTS}
MAPS = [f"hidden.{name}" for name in MODULE.attention_names()]


def drawn(shapes, seed=0):
    """Anything but its start, which is 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0.1, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def denoiser():
    return drawn(jax.eval_shape(DENOISER.init, jax.random.key(1), NOISED, TIME, TEXT))


@pytest.fixture(scope="module")
def whole():
    return drawn(jax.eval_shape(MODULE.init, jax.random.key(1), NOISED, TIME, PROMPTS))


@functools.partial(jax.jit, static_argnums=3)
def predict(variables, noised=NOISED, text=TEXT, module=DENOISER):
    return module.apply(variables, noised, TIME, text)["prediction"]


@functools.partial(jax.jit, static_argnums=2)
def outputs(variables, batch=BATCH, task=TASK):
    return task.apply(variables, batch, None, False)[0]


def softmax(scores):
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def by_hand(params, noised, time, text):
    """The paper's network in NumPy, one image at a time, in float64; and its maps."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    dense = lambda name, x, of=params: x @ of[name]["kernel"] + of[name]["bias"]
    silu = lambda x: x / (1 + np.exp(-x))
    heads = (slice(0, 4), slice(4, 8))

    def modulated(x, shift, scale):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * (1 + scale) + shift

    def attention(of, x):
        q, k, v = np.split(dense("qkv", x, of), 3, axis=-1)
        seen = [softmax(q[:, p] @ k[:, p].T / np.sqrt(4)) @ v[:, p] for p in heads]
        return dense("out", np.concatenate(seen, axis=1), of)

    def cross(of, x):
        q = x @ of["query"]["kernel"]
        k, v = (text @ of[name]["kernel"] for name in ("key", "value"))
        weights = np.stack([softmax(q[:, p] @ k[:, p].T / np.sqrt(4)) for p in heads])
        seen = [own @ v[:, p] for own, p in zip(weights, heads, strict=True)]
        return dense("out", np.concatenate(seen, axis=1), of), weights

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    waves = np.asarray(embeddings.waves(jnp.array([time]), 8), np.float64)[0]
    told = dense("time_out", silu(dense("time_in", waves)))
    shared = dense("modulation", silu(told)).reshape(6, 8)
    corners = [(y, x) for y in range(0, H, 2) for x in range(0, W, 2)]
    patches = [noised[y : y + 2, x : x + 2].reshape(-1) for y, x in corners]
    x = dense("patches", np.array(patches)) + np.asarray(embeddings.grid_positions(2, 3, 8))
    maps = []
    for i in range(2):
        of = params[f"block_{i}"]
        shift, scale, gate, shift_2, scale_2, gate_2 = shared + of["table"]
        x = x + gate * attention(of["attention"], modulated(x, shift, scale))
        seen, weights = cross(of["cross"], x)
        maps.append(weights)
        x = x + seen
        hidden = gelu(dense("mlp_in", modulated(x, shift_2, scale_2), of))
        x = x + gate_2 * dense("mlp_out", hidden, of)
    shift, scale = told + params["table"]
    pixels = dense("pixels", modulated(x, shift, scale))
    image = np.zeros((H, W, C))
    for (y, x), patch in zip(corners, pixels, strict=True):
        image[y : y + 2, x : x + 2] = patch.reshape(2, 2, C)
    return image, maps


def test_the_paper_s_network_and_its_maps_by_hand(whole):
    """The text being the encoder's last states; the maps as they are captured."""
    captured = tasks.capture(TASK, MODULE.attention_names())
    found = outputs(whole, BATCH, captured)
    own = {"params": whole["params"]["text_encoder"]}
    hidden = np.asarray(jax.jit(ENCODER.apply)(own, PROMPTS)["hidden"], np.float64)
    for i in range(B):
        given = np.asarray(NOISED[i], np.float64), int(TIME[i]), hidden[i]
        expected, maps = by_hand(whole["params"]["denoiser"], *given)
        np.testing.assert_allclose(found["prediction"][i], expected, rtol=1e-3, atol=2e-4)
        for name, weights in zip(MAPS, maps, strict=True):
            assert found[name].shape == (B, 2, 6, L)
            np.testing.assert_allclose(found[name][i], weights, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(found["prediction"], outputs(whole)["prediction"])


def test_an_edit_of_the_maps_reaches_the_prediction(whole):
    """Who looks at the first token alone sees its value, wherever it is."""
    only = lambda weights, batch: jnp.zeros_like(weights).at[..., 0].set(1)
    edited = tasks.edit(TASK, dict.fromkeys(MODULE.attention_names(), only))
    first = outputs(whole, BATCH, edited)["prediction"]
    assert np.abs(first - outputs(whole)["prediction"]).max() > 1e-3
    # All prompts begin alike, so they all say the same.
    same = {**BATCH, "condition": jnp.tile(PROMPTS[:1], (B, 1))}
    np.testing.assert_allclose(outputs(whole, same, edited)["prediction"], first, atol=1e-5)


def test_all_tokens_are_attended_those_that_fill_up_too(denoiser):
    """No mask: any permutation of the text's tokens is the same text, and each of them counts."""
    found = predict(denoiser)
    order = np.array([3, 1, 4, 0, 2])
    np.testing.assert_allclose(predict(denoiser, NOISED, TEXT[:, order]), found, atol=1e-5)
    for token in range(L):
        changed = predict(denoiser, NOISED, TEXT.at[:, token].add(1))
        assert np.abs(changed - found).max(axis=(1, 2, 3)).min() > 1e-4
    longer = predict(denoiser, NOISED, jnp.repeat(TEXT, 2, axis=1))
    np.testing.assert_allclose(longer, found, atol=1e-5)


def test_a_permuted_batch_is_permuted(whole):
    order = np.array([2, 0, 1])
    found = outputs(whole, {k: v[order] for k, v in BATCH.items()})["prediction"]
    np.testing.assert_allclose(found, outputs(whole)["prediction"][order], rtol=1e-5, atol=1e-6)


def test_guidance_towards_the_empty_prompt_is_unconditional(whole):
    denoise = diffusion.guided(diffusion.denoiser(TASK), 0.0, PROCESS.null)
    noise = jax.jit(denoise)(whole, NOISED, TIME, PROMPTS)
    empty = {**BATCH, "condition": jnp.tile(jnp.array(PROCESS.null), (B, 1))}
    np.testing.assert_array_equal(noise, outputs(whole, empty)["noise"])
    assert np.abs(noise - outputs(whole)["noise"]).max() > 1e-3


def test_a_frozen_encoder_is_carried_bit_for_bit(whole):
    """While all of the denoiser learns; its optimizer sees nothing else."""
    frozen = tasks.trained(TASK, ["denoiser"])
    variables = tasks.split(whole, ["denoiser"])
    given = {"inputs": NOISED, "condition": PROMPTS, "index": jnp.arange(B), "weight": jnp.ones(B)}
    tx = optax.adamw(0.01)
    step = jax.jit(training.make_step(training.supervised(frozen), tx))
    state, _ = step(training.init_state(variables, tx), given, jax.random.key(0))
    after = tasks.merged(frozen, state.variables)["params"]
    before = whole["params"]
    jax.tree.map(np.testing.assert_array_equal, after["text_encoder"], before["text_encoder"])
    moved = jax.tree.map(lambda a, b: (a != b).any(), after["denoiser"], before["denoiser"])
    assert all(jax.tree.leaves(moved))
    names = {name for name in trees.names(before) if name.startswith("denoiser.")}
    assert set(trees.names(state.variables["params"])) == names


def test_an_edited_text_encoder_reaches_the_images_of_any_denoiser(whole):
    """A word that reads as another one draws what that one draws; other prompts stay."""
    task = tasks.diffusion(
        tasks.from_linen(MODULE, ("noised", "time", "condition")),
        PROCESS,
        sampler=diffusion.ddim(PROCESS, 2),
    )
    prompts = jnp.array([[0, 4, 2, 1, 1], [0, 8, 2, 1, 1], [0, 5, 6, 7, 1]])

    @jax.jit
    def images(encoder, denoiser):
        params = {"text_encoder": encoder, "denoiser": denoiser}
        return diffusion.answer_set(task, {"params": params}, jax.random.key(2), prompts, 1)

    encoder, denoiser = whole["params"]["text_encoder"], whole["params"]["denoiser"]
    rows = encoder["tokens"]["embedding"].copy()
    rows[4] = rows[8]
    edited = {**encoder, "tokens": {"embedding": rows}}
    before, after = images(encoder, denoiser), images(edited, denoiser)
    assert np.abs(before[0] - before[1]).max() > 1e-3
    np.testing.assert_allclose(after[0], before[1], atol=1e-5)
    np.testing.assert_array_equal(after[1:], before[1:])
    other = drawn(denoiser, seed=1)
    elsewhere = images(edited, other)
    np.testing.assert_allclose(elsewhere[0], images(encoder, other)[1], atol=1e-5)
    assert np.abs(elsewhere - after).max() > 0.01


def test_it_starts_as_zero_and_its_text_says_nothing():
    fresh = jax.jit(DENOISER.init)(jax.random.key(1), NOISED, TIME, TEXT)
    np.testing.assert_array_equal(predict(fresh), np.zeros(NOISED.shape))
    params = fresh["params"]
    for block in ("block_0", "block_1"):
        assert not any(leaf.any() for leaf in jax.tree.leaves(params[block]["cross"]["out"]))
        assert np.abs(params[block]["table"]).max() > 0
    # As published: tables of deviation 1 / sqrt(width), a modulation of 0.02.
    wide = jax.jit(models.CrossDiT(depth=1).init)(jax.random.key(1), NOISED, TIME, TEXT)["params"]
    np.testing.assert_allclose(wide["block_0"]["table"].std() * 96**0.5, 1, rtol=0.1)
    np.testing.assert_allclose(wide["table"].std() * 96**0.5, 1, rtol=0.2)
    np.testing.assert_allclose(wide["modulation"]["kernel"].std(), 0.02, rtol=0.05)


def test_number_of_parameters():
    """By default on 8x8 pixels and a text of width 64, counted by hand."""
    w, d = 96, 64
    given = jnp.ones((1, 8, 8, 3)), jnp.zeros(1, jnp.int32), jnp.zeros((1, 12, d))
    shapes = jax.eval_shape(models.CrossDiT().init, jax.random.key(0), *given)
    told = 2 * (w * w + w) + (6 * w * w + 6 * w)
    cross = w * w + 2 * d * w + (w * w + w)
    block = 6 * w + (3 * w * w + 3 * w) + (w * w + w) + cross + (8 * w * w + 5 * w)
    ends = (12 * w + w) + 2 * w + (w * 12 + 12)
    assert trees.size(shapes) == told + 4 * block + ends


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_types(denoiser, dtype):
    with jax.enable_x64(dtype == "float64"):
        module = DENOISER.clone(dtype=jnp.dtype(dtype))
        given = (NOISED, TEXT)
        if dtype == "float64":
            given = (jnp.asarray(np.asarray(x, np.float64)) for x in given)
        found = predict(denoiser, *given, module)
        assert found.dtype == ("float32" if dtype == "bfloat16" else "float64")
        np.testing.assert_allclose(found, predict(denoiser), atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 4}, r"patch_size must divide the image \(4, 6\), got 4"),
        ({"width": 10}, "width must be a multiple of 4 and of num_heads 2, got 10"),
        ({"num_heads": 3}, "width must be a multiple of 4 and of num_heads 3, got 8"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MODULE.clone(**options).init(jax.random.key(0), NOISED, TIME, PROMPTS)
