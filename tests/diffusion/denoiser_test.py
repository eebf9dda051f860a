import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import denoising
from unlearnjax import diffusion, tasks

KEYS = jax.random.split(jax.random.key(2), 4)
NOISED = diffusion.noise_of(KEYS, denoising.SHAPE)
TIME, CONDITION = jnp.array([0, 5, 12, 19]), jnp.array([0, 1, 2, 1])
NULLS = jnp.full(4, denoising.NULL)


def by_hand(process, condition):
    """The toy's noise in NumPy."""
    w, b = (np.asarray(denoising.VARIABLES["params"][name]) for name in "wb")
    told = b[condition] + np.asarray(TIME) / 100
    prediction = np.tanh(np.asarray(NOISED) * w) + told[:, None, None, None]
    if process.prediction == "epsilon":
        return prediction
    alpha = process.schedule.alphas_bar[np.asarray(TIME)].reshape(4, 1, 1, 1)
    return np.sqrt(1 - alpha) * NOISED + np.sqrt(alpha) * prediction


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_denoiser_is_the_model_in_noise(prediction):
    process = denoising.PROCESS._replace(prediction=prediction)
    denoise = jax.jit(diffusion.denoiser(denoising.task(process)))
    noise = denoise(denoising.VARIABLES, NOISED, TIME, CONDITION)
    np.testing.assert_allclose(noise, by_hand(process, CONDITION), rtol=1e-5, atol=1e-6)
    noised = NOISED.astype(jnp.bfloat16)
    half = jax.eval_shape(denoise, denoising.VARIABLES, noised, TIME, CONDITION)
    assert half.dtype == jnp.bfloat16


def test_guidance_by_hand_and_its_limits_bit_for_bit():
    asked = []
    plain = diffusion.denoiser(denoising.task())

    def denoise(variables, noised, time, condition):
        asked.append(condition.shape[0])
        return plain(variables, noised, time, condition)

    at = denoising.VARIABLES, NOISED, TIME, CONDITION
    of = lambda scale: jax.jit(diffusion.guided(denoise, scale, denoising.NULL))(*at)
    e_c, e_0 = (np.asarray(by_hand(denoising.PROCESS, c)) for c in (CONDITION, NULLS))
    for scale in (3.0, -0.5):
        np.testing.assert_allclose(of(scale), e_0 + scale * (e_c - e_0), rtol=1e-4, atol=1e-5)
    w = 2.0
    np.testing.assert_allclose(of(1 + w), (1 + w) * e_c - w * e_0, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(of(1), jax.jit(plain)(*at))
    np.testing.assert_array_equal(of(0.0), jax.jit(plain)(*at[:3], NULLS))
    assert asked == [8, 8, 8, 4, 4]  # conditional and unconditional in one pass
    traced = jax.jit(lambda s: diffusion.guided(denoise, s, denoising.NULL)(*at))(3.0)
    np.testing.assert_allclose(traced, of(3.0), rtol=1e-5, atol=1e-6)


def test_the_null_condition_takes_every_place():
    assert diffusion.null_like(CONDITION, 3).tolist() == [3] * 4
    prompts = denoising.prompts(CONDITION).astype(jnp.int16)
    blank = diffusion.null_like(prompts, denoising.PROMPTED.null)
    assert blank.tolist() == [list(denoising.PROMPTED.null)] * 4 and blank.dtype == jnp.int16
    # Not even where as many tokens as examples would fit by chance.
    for condition, null in ((CONDITION, (1, 2, 3, 4)), (prompts, 3), (prompts[:, :4], blank[0])):
        with pytest.raises(ValueError, match="condition must be .*, as the process's null"):
            diffusion.null_like(condition, null)


@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_guidance_by_the_empty_prompt_is_that_by_the_null_class(scale):
    reading = tasks.diffusion(denoising.of_prompts(denoising.MODEL), denoising.PROMPTED)
    of = lambda task, null: diffusion.guided(diffusion.denoiser(task), scale, null)
    at = denoising.VARIABLES, NOISED, TIME
    classes = jax.jit(of(denoising.task(), denoising.NULL))(*at, CONDITION)
    told = denoising.prompts(CONDITION)
    prompts = jax.jit(of(reading, denoising.PROMPTED.null))(*at, told)
    np.testing.assert_array_equal(prompts, classes)


def test_a_guided_network_keeps_types():
    denoise = diffusion.guided(diffusion.denoiser(denoising.task()), 2.0, denoising.NULL)
    noised = NOISED.astype(jnp.bfloat16)
    found = jax.eval_shape(denoise, denoising.VARIABLES, noised, TIME, CONDITION)
    assert found.dtype == jnp.bfloat16


def test_noise_is_that_of_each_key():
    expected = [jax.random.normal(jax.random.fold_in(key, 7), (3, 2)) for key in KEYS]
    np.testing.assert_array_equal(diffusion.noise_of(KEYS, (3, 2), 7), np.stack(expected))
    first = diffusion.noise_of(KEYS, (3, 2))
    np.testing.assert_array_equal(first, diffusion.noise_of(KEYS, (3, 2), 0))
    assert np.abs(first - np.stack(expected)).min() > 0


def test_other_tasks_are_refused():
    apply = lambda *given: ({"logits": jnp.zeros((4, 2))}, given[0])
    other = tasks.classification(tasks.Model(None, apply))
    with pytest.raises(ValueError, match=r"must be one of `tasks.diffusion`.*\['logits'\]"):
        diffusion.denoiser(other)({}, NOISED, TIME, CONDITION)


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_guidance_that_is_no_number_is_refused(scale):
    with pytest.raises(ValueError, match="guidance must be finite, got"):
        diffusion.guided(diffusion.denoiser(denoising.task()), scale, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prediction": "x0"}, r"prediction must be one of \('epsilon', 'v'\), got 'x0'"),
        ({"null": -1}, "null must be >= 0, got -1"),
        ({"null": 2.5}, "null must be a whole number, got 2.5"),
        ({"null": (1, 2.5)}, r"null\[1\] must be a whole number, got 2.5"),
        ({"null": (-1, 2)}, r"null\[0\] must be >= 0, got -1"),
        ({"null": ()}, r"null must be a condition, .* got \(\)"),
        ({"null": [1, 2]}, r"null must be a whole number, got \[1, 2\]"),
        ({"clip": 0.0}, "clip must be > 0, got 0.0"),
        ({"shape": (2, 2)}, r"shape must be \(H, W, C\), each >= 1, got \(2, 2\)"),
        ({"shape": (2, 0, 1)}, r"shape must be \(H, W, C\), each >= 1, got \(2, 0, 1\)"),
        ({"shape": (2, 2.0, 1)}, r"shape\[1\] must be a whole number, got 2.0"),
    ],
)
def test_a_process_that_is_none_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tasks.diffusion(denoising.MODEL, denoising.PROCESS._replace(**fields))


def test_latents_are_not_clipped():
    assert denoising.PROCESS.clip == 1.0
    process = denoising.PROCESS._replace(clip=None)
    predict = functools.partial(diffusion.denoiser(denoising.task(process)), denoising.VARIABLES)
    sampler = diffusion.ddim(process, 3)
    images = jax.jit(lambda x: sampler(KEYS, predict, x, CONDITION))(NOISED)
    assert np.abs(images).max() > 1
