import jax
import jax.numpy as jnp
import numpy as np

from unlearnjax import models, trees

IMAGES = jax.random.normal(jax.random.key(0), (3, 4, 4, 3))
PROMPTS = jnp.array([[0, 2, 1, 1], [0, 3, 4, 1], [0, 1, 1, 1]])
IMAGE = models.ViT(6, patch_size=2, width=8, depth=1, num_heads=2)
TEXT = models.TextEncoder(5, length=4, width=8, depth=1, num_heads=2)
MODULE = models.CLIP(IMAGE, TEXT)


def test_both_halves_are_unit_vectors_of_their_encoders():
    variables = jax.jit(MODULE.init)(jax.random.key(1), IMAGES, PROMPTS)
    params = variables["params"]
    assert set(params) == {"image_encoder", "text_encoder", "text_projection", "log_scale"}
    assert trees.names(params["text_projection"]) == ["kernel"]
    found = jax.jit(MODULE.apply)(variables, IMAGES, PROMPTS)
    image = jax.jit(IMAGE.apply)({"params": params["image_encoder"]}, IMAGES)["logits"]
    pooled = jax.jit(TEXT.apply)({"params": params["text_encoder"]}, PROMPTS)["pooled"]
    text = np.asarray(pooled) @ np.asarray(params["text_projection"]["kernel"])
    for name, expected in (("image", np.asarray(image)), ("text", text)):
        assert found[name].shape == (3, 6)
        unit = expected / np.sqrt((expected**2).sum(1, keepdims=True))
        np.testing.assert_allclose(found[name], unit, rtol=1e-4, atol=1e-5)


def test_the_scale_is_learned_up_to_a_hundred():
    variables = jax.jit(MODULE.init)(jax.random.key(1), IMAGES, PROMPTS)

    def scale(log_scale):
        params = {**variables["params"], "log_scale": log_scale}
        return MODULE.apply({"params": params}, IMAGES, PROMPTS)["scale"]

    np.testing.assert_allclose(scale(variables["params"]["log_scale"]), [1 / 0.07] * 3, rtol=1e-6)
    np.testing.assert_allclose(scale(jnp.log(7.0)), [7] * 3, rtol=1e-6)
    np.testing.assert_allclose(scale(jnp.log(1000.0)), [100] * 3, rtol=1e-6)
