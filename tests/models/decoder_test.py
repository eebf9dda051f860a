import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import frameworks
from unlearnjax import models, trees
from unlearnjax.models import decoder

# What no golden file of a published model has: a window, a bound, biases of attention alone.
CONFIG = models.DecoderConfig(
    vocab_size=11,
    width=12,
    depth=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    mlp_width=10,
    rope_base=30.0,
    window=3,
    clip_qkv=0.4,
    bias="attention",
    qk_norm=False,
    tie_embeddings=False,
)
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 7)).astype(np.int32)


def by_hand(config, params, tokens):
    """Logits of one row, in NumPy and double precision, token by token."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    size, groups = config.head_dim, config.num_heads // config.num_kv_heads

    def normed(x, scale):
        return x / np.sqrt((x**2).mean() + config.norm_eps) * scale["scale"]

    def product(x, layer):
        return x @ layer["kernel"] + layer.get("bias", 0.0)

    def turned(x, position):
        half = size // 2
        pairs = x[:half] + 1j * x[half:]
        angles = position * config.rope_base ** (-2.0 * np.arange(half) / size)
        pairs = pairs * np.exp(1j * angles)
        return np.concatenate([pairs.real, pairs.imag])

    stream = [params["embed"]["embedding"][token] for token in tokens]
    for i in range(config.depth):
        block = params[f"block_{i}"]
        attention, mlp = block["attention"], block["mlp"]
        keys, values, following = [], [], []
        for t, x in enumerate(stream):
            y = normed(x, block["attention_norm"])
            clip = lambda z: np.clip(z, -config.clip_qkv, config.clip_qkv).reshape(-1, size)
            query, key, value = (clip(product(y, attention[name])) for name in "qkv")
            keys.append([turned(head, t) for head in key])
            values.append(value)
            heads = []
            for h, head in enumerate(query):
                reach = range(max(0, t - config.window + 1), t + 1)
                scores = [turned(head, t) @ keys[s][h // groups] / np.sqrt(size) for s in reach]
                share = np.exp(scores) / np.exp(scores).sum()
                heads.append(share @ np.stack([values[s][h // groups] for s in reach]))
            x = x + product(np.concatenate(heads), attention["o"])
            y = normed(x, block["mlp_norm"])
            gate = product(y, mlp["gate"])
            y = gate / (1 + np.exp(-gate)) * product(y, mlp["up"])
            following.append(x + product(y, mlp["down"]))
        stream = following
    return np.stack([normed(x, params["norm"]) for x in stream]) @ params["head"]


@pytest.fixture(scope="module")
def model():
    """`tokens -> outputs`, compiled, and the parameters."""
    module = models.Decoder(CONFIG)
    variables = frameworks.random_like(jax.eval_shape(module.init, jax.random.key(0), TOKENS))
    run = jax.jit(lambda variables, tokens: module.apply(variables, tokens))
    return run, variables


def test_logits_equal_those_by_hand(model):
    run, variables = model
    found = run(variables, TOKENS)
    expected = np.stack([by_hand(CONFIG, variables["params"], row) for row in TOKENS])
    np.testing.assert_allclose(found["logits"], expected, rtol=1e-4, atol=1e-5)
    product = np.asarray(found["hidden"]) @ np.asarray(found["head"])
    np.testing.assert_allclose(product, found["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"window": 4}, {"clip_qkv": 0.5}, {"rope_base": 31.0}], ids=str)
def test_every_switch_counts(wrong, model):
    _, variables = model
    own = by_hand(CONFIG, variables["params"], TOKENS[0])
    other = by_hand(CONFIG._replace(**wrong), variables["params"], TOKENS[0])
    assert np.abs(own - other).max() > 1e-3


def test_neither_later_tokens_nor_neighbours_change_anything(model):
    run, variables = model
    changed = TOKENS.copy()
    changed[0, 4:], changed[1] = (changed[0, 4:] + 1) % 11, (changed[1] + 1) % 11
    before, after = (np.asarray(run(variables, x)["logits"]) for x in (TOKENS, changed))
    np.testing.assert_array_equal(after[0, :4], before[0, :4])
    np.testing.assert_array_equal(after[2], before[2])
    assert np.abs(after[0, 4] - before[0, 4]).max() > 1e-3


def test_tokens_read_one_by_one_with_a_cache_say_the_same(model):
    run, variables = model
    module, whole = models.Decoder(CONFIG), np.asarray(run(variables, TOKENS)["logits"])
    cut = lambda outputs: {
        k.removeprefix("cache."): v for k, v in outputs.items() if k.startswith("cache.")
    }

    @jax.jit
    def read(inputs, positions, cache):
        outputs = module.apply(variables, inputs, positions=positions, cache=cache)
        return outputs["logits"], cut(outputs)

    # Rows that are 2, 3 and 1 tokens ahead, whose padding was read, too.
    start = jnp.array([2, 3, 1])
    first = jnp.where(jnp.arange(3) < start[:, None], TOKENS[:, :3], 9)
    logits, cache = read(first, jnp.broadcast_to(jnp.arange(3), (3, 3)), {})
    for row, n in enumerate(start):
        np.testing.assert_allclose(logits[row, :n], whole[row, :n], rtol=1e-4, atol=1e-5)
    more = {"key": ((0, 0), (0, 0), (0, 0), (0, 4)), "value": ((0, 0), (0, 0), (0, 4), (0, 0))}
    cache = {name: jnp.pad(x, more[name.split(".")[-1]]) for name, x in cache.items()}
    assert cache["block_1.key"].shape == (3, 2, 6, 7)
    assert cache["block_1.value"].shape == (3, 2, 7, 6)
    for turn in range(4):
        at = (start + turn)[:, None]
        logits, cache = read(jnp.take_along_axis(jnp.asarray(TOKENS), at, 1), at, cache)
        expected = np.take_along_axis(whole, np.asarray(at)[..., None], 1)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_blocks_computed_again_have_the_same_gradients(model):
    _, variables = model

    def gradient(variables, remat):
        module = models.Decoder(CONFIG._replace(depth=1), remat=remat)
        return jax.grad(lambda v: jnp.mean(module.apply(v, TOKENS)["logits"] ** 2))(variables)

    variables = {"params": {k: v for k, v in variables["params"].items() if k != "block_1"}}
    both = jax.jit(lambda v: (gradient(v, False), gradient(v, True)))
    close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, *both(variables))
    program = jax.make_jaxpr(lambda v: gradient(v, True))(variables)
    kinds = [equation.primitive.name for equation in program.jaxpr.eqns]
    assert sum("remat" in kind or "checkpoint" in kind for kind in kinds) == 1


def test_computing_in_bfloat16_leaves_parameters_and_logits_wide(model):
    run, variables = model
    module = models.Decoder(CONFIG, dtype=jnp.bfloat16)
    fresh = jax.eval_shape(module.init, jax.random.key(0), TOKENS)
    assert {x.dtype.name for x in jax.tree.leaves(fresh)} == {"float32"}
    found = jax.jit(module.apply)(variables, TOKENS)
    assert (found["hidden"].dtype, found["logits"].dtype) == (jnp.bfloat16, jnp.float32)
    expected = run(variables, TOKENS)["logits"]
    # Eight bits of each number, through two blocks.
    np.testing.assert_allclose(found["logits"], expected, atol=0.1 * np.abs(expected).max())
    assert np.abs(found["logits"] - expected).max() > 0


def test_what_is_added_to_the_stream_starts_smaller_the_deeper_the_model():
    config = models.DecoderConfig(vocab_size=5, width=64, depth=2, num_heads=4, mlp_width=64)

    @jax.jit  # of these three alone, so that no other is compiled
    def kernels(key):
        block = models.Decoder(config).init(key, TOKENS % 5)["params"]["block_1"]
        layers = block["mlp"]["up"], block["mlp"]["down"], block["attention"]["o"]
        return [layer["kernel"] for layer in layers]

    spread = [np.std(kernel) for kernel in kernels(jax.random.key(0))]
    np.testing.assert_allclose(spread, [1 / 8, 1 / 16, 1 / 16], rtol=0.1)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"norm": "batch"}, "norm must be one of"),
        ({"positions": "alibi"}, "positions must be one of"),
        ({"bias": "mlp"}, "bias must be one of"),
        ({"depth": 0}, "depth must be >= 1, got 0"),
        ({"width": 12.0}, "width must be a whole number"),
        ({"window": 0}, "window must be >= 1"),
        ({"clip_qkv": 0.0}, "clip_qkv must be > 0"),
        ({"norm_eps": 0.0}, "norm_eps must be > 0"),
        ({"head_dim": 5}, "head_dim must be even where it is rotated, got 5"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide num_heads 4, got 3"),
        ({"num_heads": 8, "head_dim": None}, "num_heads must divide width 12 where head_dim is"),
    ],
    ids=str,
)
def test_decoders_that_cannot_be_are_refused(wrong, message):
    module = models.Decoder(CONFIG._replace(**wrong))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), TOKENS)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"inputs": TOKENS * 1.0}, r"inputs must be \[B, T\] integers, tokens, got float"),
        ({"inputs": TOKENS[0]}, r"inputs must be \[B, T\] integers, tokens, got int32 \[7\]"),
        ({"cache": {"block_0.key": TOKENS}}, "positions must be given beside a cache"),
        ({"positions": TOKENS[:, :1]}, r"positions must be \[3, 7\] as inputs, got \[3, 1\]"),
    ],
)
def test_inputs_that_are_no_tokens_are_refused(given, message, model):
    call = {"inputs": TOKENS, **given}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda v: models.Decoder(CONFIG).apply(v, **call), model[1])


def test_learned_positions_bound_the_inputs():
    module = models.Decoder(CONFIG._replace(positions="learned", max_length=6))
    with pytest.raises(ValueError, match="inputs must be at most 6 tokens long, .* got 7"):
        jax.eval_shape(module.init, jax.random.key(0), TOKENS)
    jax.eval_shape(module.init, jax.random.key(0), TOKENS[:, :6])


@pytest.mark.parametrize(
    ("bias", "layers"),
    [("none", ""), ("qkv", "k q v"), ("attention", "k o q v"), ("all", "down gate k o q up v")],
)
def test_biases_are_where_they_are_said_to_be(bias, layers):
    module = models.Decoder(CONFIG._replace(bias=bias, depth=1))
    names = trees.names(jax.eval_shape(module.init, jax.random.key(0), TOKENS))
    found = sorted(name.split(".")[-2] for name in names if name.endswith(".bias"))
    assert " ".join(found) == layers


def test_slow_rotations_are_slowed_down_and_fast_ones_left_alone():
    """Llama 3's rule, one wavelength at a time."""
    scaling = models.RopeScaling(factor=4.0, low=1.0, high=8.0, length=64)
    at, turns, kinds = 5, [], set()
    for i in range(6):
        turn = 1000.0 ** (-2 * i / 12)
        wavelength = 2 * np.pi / turn
        fast, slow = wavelength < 64 / 8, wavelength > 64 / 1
        between = (64 / wavelength - 1) / (8 - 1)
        mixed = (1 - between) * turn / 4 + between * turn
        turns.append(turn if fast else turn / 4 if slow else mixed)
        kinds.add((fast, slow))
    config = CONFIG._replace(head_dim=12, rope_base=1000.0, rope_scaling=scaling)
    cos, sin = decoder.rotations(config, jnp.full((1, 1), at))
    np.testing.assert_allclose(cos[0, 0, 0], np.cos(at * np.array(turns)), atol=1e-6)
    np.testing.assert_allclose(sin[0, 0, 0], np.sin(at * np.array(turns)), atol=1e-6)
    assert len(kinds) == 3


def test_a_decoder_by_its_size_is_of_the_llama_kind():
    sized = models.DECODERS["decoder"]
    usual = models.DecoderConfig(7)
    assert (usual.norm, usual.norm_eps, usual.positions, usual.rope_base) == (
        "rms", 1e-6, "rope", 1e4,
    )  # fmt: skip
    given = models.DecoderConfig(7, width=24, depth=3, num_heads=6, num_kv_heads=3, mlp_width=20)
    sizes = {"width": 24, "depth": 3, "num_heads": 6, "num_kv_heads": 3, "mlp_width": 20}
    assert sized(7, jnp.bfloat16, remat=True, **sizes) == models.Decoder(given, jnp.bfloat16, True)
    assert sized(7) == models.Decoder(models.DecoderConfig(7, num_kv_heads=2))
