import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.unlearning.diffusion import prompted, toy
from unlearnjax import trees, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.diffusion import few_shot

PARAMS = prompted.VARIABLES["params"]
FORGET = {
    **toy.images(np.random.default_rng(0), [0] * 6, prompted.PROCESS, first=10),
    "condition": prompted.prompts(*["a one", "one in neon style", "deep one"] * 2),
}
# Every example has a time and a noise of its own, the same in every step.
FIXED = {
    **FORGET,
    "time": jnp.arange(6) * 8,
    "noise": jnp.asarray(np.random.default_rng(1).normal(size=(6, 2, 2, 1)), jnp.float32),
}
TASK = prompted.TASK._replace(draw=None)


def run(forget=FORGET, task=prompted.TASK, variables=prompted.VARIABLES, tx=None, **options):
    options = {"num_steps": 3, "batch_size": 2, **options}
    method = unlearning.few_shot_erasure(tx or optax.adamw(1e-2), prompted.PROCESS, **options)
    method = unlearning.enforce(method)
    update = lambda v, request: method.update(jax.random.key(1), task, v, (), request)
    found, memory = jax.jit(update)(variables, Request(forget, forget))
    return found["params"], memory


MLPS = [f"layer_{i}.mlp_{way}" for i in (0, 1) for way in ("in", "out")]
ATTENTIONS = [f"layer_{i}.attention.{name}" for i in (0, 1) for name in ("out", "qkv")]
PARTS = {
    "mlp-final-attn": [*MLPS, *ATTENTIONS[2:]],
    "mlp-only": MLPS,
    "attn-only": ATTENTIONS,
    "mlp-attn": [*MLPS, *ATTENTIONS],
    "all": [*MLPS, *ATTENTIONS, "norm", "tokens"],
}


def test_parts_of_the_encoder_are_the_published_ones():
    assert set(PARTS) == set(few_shot.PARTS)
    for part, layers in PARTS.items():
        moves = few_shot.moving(PARAMS, "text_encoder", part)
        assert {name.rpartition(".")[0] for name in moves} == {f"text_encoder.{x}" for x in layers}
    # With ten layers and more, the last is the one of the largest number.
    deep = {"text": {f"layer_{i}": {"attention": {"out": 0}} for i in range(12)}}
    assert few_shot.moving(deep, "text", "mlp-final-attn") == ["text.layer_11.attention.out"]


@pytest.mark.parametrize("part", ["mlp-final-attn", "attn-only"])
def test_all_else_stays_bit_equal_whatever_the_optimizer(part):
    after, memory = run(part=part)
    same = jax.tree.map(np.array_equal, after, PARAMS)
    moved = [n for n, s in zip(trees.names(same), jax.tree.leaves(same), strict=True) if not s]
    assert moved == few_shot.moving(PARAMS, "text_encoder", part) and memory == ()


def test_a_step_of_sgd_is_the_rate_times_the_slope_of_the_loss():
    """By central differences in float64, along random directions."""
    with jax.enable_x64(True):
        wide = lambda tree: jax.tree.map(
            lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree
        )
        params, batch = wide(PARAMS), wide(FIXED)

        @jax.jit
        def loss(params):
            outputs, _ = TASK.apply({"params": params}, batch, None, False)
            return TASK.loss(outputs, batch).mean()

        rate = 0.125
        options = {"num_steps": 1, "batch_size": 6, "num_images": 6}
        after, _ = run(batch, TASK, {"params": params}, optax.sgd(rate), **options)
        step = jax.tree.map(jnp.subtract, after, params)
        names, treedef = trees.names(params), jax.tree.structure(params)
        moves = few_shot.moving(params, "text_encoder", "mlp-final-attn")
        rng = np.random.default_rng(2)
        for _ in range(3):
            along = [
                rng.normal(size=p.shape) if name in moves else np.zeros(p.shape)
                for name, p in zip(names, jax.tree.leaves(params), strict=True)
            ]
            along = treedef.unflatten(along)
            ends = [loss(optax.tree.add_scale(params, h, along)) for h in (1e-5, -1e-5)]
            slope = (ends[0] - ends[1]) / 2e-5
            found = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, step, along)))
            np.testing.assert_allclose(found, rate * slope, rtol=1e-6)
            assert abs(slope) > 1e-4


def test_the_loss_on_the_concept_rises_in_every_step_and_not_at_rate_nought():
    options = {"num_steps": 6, "batch_size": 6, "num_images": 6, "record": ("forget",)}
    _, trace = run(FIXED, TASK, tx=optax.sgd(0.05), **options)
    assert np.all(np.diff(trace.curves["forget_loss"]) > 0)
    after, _ = run(FIXED, TASK, tx=optax.sgd(0.0))
    jax.tree.map(np.testing.assert_array_equal, after, PARAMS)


def test_few_images_are_drawn_once_and_stay_the_same():
    """By a model whose loss on an example is the parameter of its number."""

    def apply(variables, batch, rng, train):
        bias = variables["params"]["text_encoder"]["layer_0"]["mlp_in"]["bias"]
        return {"own": bias[batch["index"] - 10]}, variables

    task = TASK._replace(apply=apply, loss=lambda outputs, batch: outputs["own"])
    params = {"text_encoder": {"layer_0": {"mlp_in": {"bias": jnp.zeros(6)}}}}
    method = unlearning.few_shot_erasure(
        optax.sgd(1.0), prompted.PROCESS, num_images=2, num_steps=5, batch_size=2
    )
    update = lambda rng: method.update(rng, task, {"params": params}, (), Request(FIXED))[0]
    seen = set()
    for found in jax.jit(jax.vmap(update))(jax.random.split(jax.random.key(0), 8))["params"][
        "text_encoder"
    ]["layer_0"]["mlp_in"]["bias"]:
        assert sorted(found.tolist()) == [0, 0, 0, 0, 2.5, 2.5]
        seen.add(tuple(np.flatnonzero(found)))
    assert len(seen) > 2


@pytest.mark.parametrize("others", [False, True])
def test_each_image_in_each_step_has_one_of_its_captions(others):
    """By a model whose loss on an example is the parameter of its first word.

    Of those that name the concept alone, where there are such beside others.
    """

    def apply(variables, batch, rng, train):
        bias = variables["params"]["text_encoder"]["layer_0"]["mlp_in"]["bias"]
        assert not train
        return {"own": bias[batch["condition"][:, 1]]}, variables

    task = TASK._replace(apply=apply, loss=lambda outputs, batch: outputs["own"])
    params = {"text_encoder": {"layer_0": {"mlp_in": {"bias": jnp.zeros(11)}}}}
    words = ["one", "two", "deep", "blue"]
    told = jnp.stack([prompted.prompts(*words[:2]), prompted.prompts(*words[2:])] * 3)
    method = unlearning.few_shot_erasure(
        optax.sgd(1.0), prompted.PROCESS, num_images=6, num_steps=50, batch_size=6
    )
    request = Request({**FIXED, "captions": told})
    if others:
        named = prompted.prompts("style", "photo")
        columns = {"captions": jnp.stack([named] * 6), "alone.captions": told}
        request = Request({**FIXED, **columns})
    update = lambda v: method.update(jax.random.key(0), task, v, (), request)[0]
    bias = jax.jit(update)({"params": params})["params"]["text_encoder"]["layer_0"]["mlp_in"][
        "bias"
    ]
    drawn = np.array([bias[prompted.WORDS.index(word)] for word in words])
    # Of 150 images in 50 steps of 6, half have the first caption, with a deviation of 6.
    np.testing.assert_allclose(drawn, 12.5, atol=4 * np.sqrt(150) / 2 / 6)
    assert bias.sum() == pytest.approx(50, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "mlp-onli"}, "part must be one of .*; did you mean 'mlp-only'"),
        ({"num_images": 0}, "num_images must be >= 1, got 0"),
        ({"num_images": 4.0}, "num_images must be a whole number, got 4.0"),
        ({"num_steps": 0}, "num_steps must be >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"encoder": None}, "encoder must be one name"),
        ({"record": ("retained",)}, r"record\[0\] must be one of .*; did you mean 'retain'"),
        ({"process": toy.PROCESS}, "process must be one of prompts"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.few_shot_erasure(optax.sgd(0.1), **{"process": prompted.PROCESS, **options})


def test_it_needs_images_prompts_and_a_text_encoder():
    of = lambda **options: unlearning.few_shot_erasure(optax.sgd(0.1), prompted.PROCESS, **options)
    update = lambda method, forget: unlearning.enforce(method).update(
        jax.random.key(0), prompted.TASK, prompted.VARIABLES, (), Request(forget)
    )
    assert of().needs == {"forget", "inputs"}
    nothing = {**FORGET, "condition": jnp.tile(jnp.array(prompted.NULL), (6, 1))}
    for method, forget, message in (
        (of(), {k: v for k, v in FORGET.items() if k != "inputs"}, "needs 'inputs' of 'forget'"),
        (of(), {k: v[:0] for k, v in FORGET.items()}, "forget must hold at least one example"),
        (of(), nothing, "condition of forget must be a prompt, .* not the empty one"),
        (of(encoder="text_encodr"), FORGET, "got 'text_encodr'; did you mean 'text_encoder'"),
        (of(encoder="denoiser"), FORGET, r"what holds 'layer_0.attention' and so on, of \['den"),
    ):
        with pytest.raises(ValueError, match=message):
            update(method, forget)
