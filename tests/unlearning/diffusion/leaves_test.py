import jax
import jax.numpy as jnp
import pytest

from unlearnjax import diffusion, models, tasks, trees
from unlearnjax.unlearning.confined import moving
from unlearnjax.unlearning.diffusion import few_shot, leaves

MODULE = models.TextDiT(models.TextEncoder(9, width=8, num_heads=2), width=8, depth=3, num_heads=2)
MODEL = tasks.from_linen(MODULE, ("noised", "time", "condition"))
BATCH = {
    "noised": jnp.zeros((1, 4, 4, 1)),
    "time": jnp.zeros(1, jnp.int32),
    "condition": jnp.zeros((1, 12), jnp.int32),
}
PARAMS = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), BATCH))["params"]
CROSS = [f"denoiser.block_{i}.cross.{name}" for i in range(3) for name in ("key", "value")]
OTHERS = [f"denoiser.block_{i}.cross.{name}" for i in range(3) for name in ("out", "query")]


def groups(names):
    return {name.rpartition(".")[0] if "." in name else name for name in names}


@pytest.mark.parametrize(
    ("choice", "layers"),
    [
        ({"where": leaves.KEYS_AND_VALUES}, {*CROSS}),
        (leaves.ESD_X, {*CROSS, *OTHERS}),
        (
            leaves.ESD_U,
            {"denoiser.patches", "denoiser.modulation"}
            | {f"denoiser.block_{i}" for i in range(3)}
            | {f"denoiser.block_{i}.attention.{name}" for i in range(3) for name in ("qkv", "out")}
            | {f"denoiser.block_{i}.mlp_{way}" for i in range(3) for way in ("in", "out")},
        ),
    ],
)
def test_they_are_what_is_published(choice, layers):
    """What is a block's own is the table that is added to its modulation."""
    found = moving(PARAMS, **choice)
    assert groups(found) == layers
    own = [name for name in found if name.rpartition(".")[0] == "denoiser.block_0"]
    assert own in ([], ["denoiser.block_0.table"])


def test_the_text_encoder_has_the_parts_that_few_images_move():
    moves = few_shot.moving(PARAMS, "text_encoder", "mlp-final-attn")
    layers = {f"layer_{i}.mlp_{way}" for i in range(2) for way in ("in", "out")}
    layers |= {f"layer_1.attention.{name}" for name in ("qkv", "out")}
    assert groups(moves) == {f"text_encoder.{layer}" for layer in layers}
    every = few_shot.moving(PARAMS, "text_encoder", "all")
    assert every == [name for name in trees.names(PARAMS) if name.startswith("text_encoder.")]


def test_attention_and_text_have_the_names_that_methods_look_for():
    process = diffusion.Process(diffusion.cosine(10), (4, 4, 1), (0, *[1] * 11))
    task = tasks.diffusion(MODEL, process)
    task = tasks.capture(task, ("*.cross.weights", "text_encoder.hidden"))
    shapes, _ = jax.eval_shape(lambda p: task.apply({"params": p}, BATCH, None, False), PARAMS)
    named = {f"hidden.{name}" for name in MODULE.attention_names()}
    assert {name for name in shapes if name.endswith("weights")} == named
    assert {shapes[name].shape for name in named} == {(1, 2, 4, 12)}
    assert shapes["hidden.text_encoder.hidden"].shape == (1, 12, 8)
