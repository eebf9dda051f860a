import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from tests.unlearning import linear
from unlearnjax import training
from unlearnjax.training import perturb as perturb_lib

KEY = jax.random.key(0)


def linear_images():
    """Six images of two channels in three classes, of which the last one is padding."""
    rng = np.random.default_rng(0)
    batch = {
        "inputs": jnp.asarray(rng.uniform(size=(6, 4, 3, 2)), jnp.float32),
        "targets": jnp.array([0, 1, 1, 2, 1, 1]),
        "index": jnp.arange(6),
        "weight": jnp.array([1.0, 1, 1, 1, 1, 0]),
    }
    w = rng.normal(size=(24, 4))

    def apply(variables, batch, rng, train):
        flat = batch["inputs"].reshape(len(batch["inputs"]), -1)
        return {"logits": flat @ variables["params"]["w"]}, variables

    variables = {"params": {"w": jnp.asarray(w, jnp.float32)}}
    return linear.TASK._replace(apply=apply), variables, batch, w


@pytest.mark.parametrize("bound", [5.0, 0.05])
def test_filters_of_classes_ascend_the_mean_loss_of_their_class(bound):
    """By SciPy's correlation and the closed-form gradient of a linear classifier, step by step."""
    task, variables, batch, w = linear_images()
    options = {"kernel_size": 3, "num_steps": 3, "step_size": 0.2, "bound": bound}
    actual = training.deconvolution(task, 4, **options)(KEY, variables, batch)
    kernels, biases = perturb_lib._random_filters(KEY, 4, 3, jnp.float32)
    for drawn in perturb_lib._random_filters(KEY, 400, 3, jnp.float32):
        assert -1 / 3 <= drawn.min() < -0.32 and 0.32 < drawn.max() <= 1 / 3
    kernels, biases = (np.array(x, np.float64) for x in (kernels, biases))
    images, targets = np.asarray(batch["inputs"], np.float64), np.asarray(batch["targets"])

    def filtered(kernel, bias, image):
        channels = np.moveaxis(image, -1, 0)
        own = [ndimage.correlate(x, kernel, mode="constant") for x in channels]
        return np.stack(own, axis=-1) + bias

    for _ in range(3):
        kernels, biases = (np.clip(x, -bound, bound) for x in (kernels, biases))
        slopes = np.zeros_like(kernels), np.zeros_like(biases)
        for image, target in zip(images[:5], targets, strict=False):  # without the padding
            logits = filtered(kernels[target], biases[target], image).ravel() @ w
            probs = np.exp(logits - logits.max())
            probs /= probs.sum()
            slope = (w @ (probs - np.eye(4)[target])).reshape(4, 3, 2)
            slope /= (targets[:5] == target).sum()
            padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
            for i, j in np.ndindex(3, 3):
                slopes[0][target, i, j] += (slope * padded[i : i + 4, j : j + 3]).sum()
            slopes[1][target] += slope.sum()
        kernels, biases = kernels + 0.2 * slopes[0], biases + 0.2 * slopes[1]
    for image, target, found in zip(images, targets, actual["inputs"], strict=True):
        expected = filtered(kernels[target], biases[target], image)
        expected = (expected - expected.min()) / (expected - expected.min()).max()
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert actual["targets"] is batch["targets"]


def test_filters_are_drawn_anew_and_flat_images_stay_finite():
    task, variables, batch, _ = linear_images()
    attack = training.deconvolution(task, 4, kernel_size=1, num_steps=1)
    flat = attack(KEY, variables, {**batch, "inputs": jnp.ones((6, 4, 3, 2))})["inputs"]
    np.testing.assert_array_equal(flat, 0.0)
    attack = training.deconvolution(task, 4, kernel_size=3, num_steps=1)
    first, second = (attack(jax.random.key(i), variables, batch)["inputs"] for i in range(2))
    assert (jnp.abs(first - second).max((1, 2, 3)) > 0.01).all()


def test_defaults_are_those_published():
    defaults = {
        k: p.default for k, p in inspect.signature(training.deconvolution).parameters.items()
    }
    published = {"kernel_size": 7, "num_steps": 10, "step_size": 0.1, "bound": 5.0}
    assert published.items() <= defaults.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"kernel_size": 0}, "kernel_size must be >= 1"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"num_classes": 2.5}, "num_classes must be a whole number"),
        ({"step_size": -1.0}, "step_size must be >= 0"),
        ({"bound": 0.0}, "bound must be > 0"),
    ],
)
def test_bad_filters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        training.deconvolution(linear.TASK, **{"num_classes": 3, **options})
    task, variables, batch, _ = linear_images()
    attack = training.deconvolution(task, 4)
    with pytest.raises(ValueError, match="inputs must be images"):
        attack(KEY, variables, {**batch, "inputs": batch["inputs"][..., 0]})
    with pytest.raises(ValueError, match="inputs must be floating-point"):
        attack(KEY, variables, {**batch, "inputs": jnp.ones((6, 4, 3, 2), jnp.uint8)})
