import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import tasks
from unlearnjax.audit import alignment


def apply(variables, batch, rng, train):
    """The images' first two pixels, and a row of a table for each prompt, as unit vectors."""
    unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)
    image = unit(batch["inputs"].reshape(len(batch["inputs"]), -1)[:, :2])
    text = unit(variables["params"][batch["condition"][:, 1]])
    return {"image": image, "text": text, "scale": jnp.ones(len(text))}, variables


TASK = tasks.contrastive(tasks.Model(None, apply))
ANGLES = np.array([0.0, 0.3, 1.0, 2.0, 3.0, 4.0, 6.0])
OF_TEXT = np.array([0.5, 2.5, 5.0])
VARIABLES = {"params": jnp.stack([3 * np.cos(OF_TEXT), 3 * np.sin(OF_TEXT)], axis=1)}
IMAGES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).reshape(7, 1, 2, 1)
PROMPTS = np.array([[0, i, 1] for i in range(3)])


@pytest.mark.parametrize("batch_size", [3, 256])
def test_cosines_are_those_of_the_angles(batch_size):
    which = np.array([0, 1, 2, 0, 1, 2, 0])
    found = alignment.clip_pair(TASK, VARIABLES, IMAGES, PROMPTS[which], batch_size=batch_size)
    np.testing.assert_allclose(found, np.cos(ANGLES - OF_TEXT[which]), rtol=1e-5, atol=1e-6)


def test_a_pair_needs_no_scale():
    def bare(*given):
        outputs, variables = apply(*given)
        return {name: outputs[name] for name in ("image", "text")}, variables

    task = TASK._replace(apply=bare)
    found = alignment.clip_pair(task, VARIABLES, IMAGES[:3], PROMPTS)
    np.testing.assert_allclose(found, np.cos(ANGLES[:3] - OF_TEXT), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 7])
def test_every_image_with_every_prompt(number):
    found = alignment.zero_shot(TASK, VARIABLES, IMAGES[:number], PROMPTS, batch_size=2)
    expected = np.cos(ANGLES[:number, None] - OF_TEXT)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_bad_input_is_refused():
    for images, prompts in ((IMAGES, PROMPTS), (IMAGES[:0], PROMPTS[:0])):
        with pytest.raises(ValueError, match="images and prompts must be as many, and at least"):
            alignment.clip_pair(TASK, VARIABLES, images, prompts)
    for images, prompts in ((IMAGES[:0], PROMPTS), (IMAGES, PROMPTS[:0])):
        with pytest.raises(ValueError, match="must be at least one each, got"):
            alignment.zero_shot(TASK, VARIABLES, images, prompts)
    for of in (alignment.clip_pair, alignment.zero_shot):
        with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
            of(TASK, VARIABLES, IMAGES[:3], PROMPTS, batch_size=0)
    other = TASK._replace(apply=lambda *given: ({"logits": jnp.ones((3, 2))}, given[0]))
    with pytest.raises(ValueError, match=r"one of `tasks.contrastive`, .* \['logits'\]"):
        alignment.clip_pair(other, VARIABLES, IMAGES[:3], PROMPTS)
