import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import denoising
from unlearnjax import diffusion, parallel, tasks

# Draws on the way, too, so that all of its noise is seen to be an example's own.
TASK = denoising.task(sampler=diffusion.ddim(denoising.PROCESS, 4, eta=0.5))
RNG = jax.random.key(3)
CONDITIONS = jnp.array([0, 2, 1])


def answers(variables=denoising.VARIABLES, **options):
    of = lambda v: diffusion.answer_set(TASK, v, RNG, CONDITIONS, 5, **options)
    return np.asarray(jax.jit(of)(variables))


@jax.jit
def generated(variables, rows):
    return tasks.generate(TASK, variables, RNG, rows)["images"]


@pytest.fixture(scope="module")
def whole():
    return answers()


def test_each_cell_is_what_the_task_generates_for_it(whole):
    assert whole.shape == (3, 5, *denoising.SHAPE)
    for place, condition in enumerate([0, 2, 1]):
        batch = {"condition": jnp.full(5, condition), "index": jnp.arange(5)}
        alone = generated(denoising.VARIABLES, batch)
        np.testing.assert_allclose(whole[place], alone, rtol=1e-5, atol=1e-6)
    assert np.abs(whole[0] - whole[1]).min() > 0


def test_seeds_are_common_to_conditions_and_models(whole):
    """A model that looks at neither condition nor image gives what its noise makes."""
    blind = {"params": {"w": jnp.zeros(denoising.SHAPE), "b": jnp.zeros(4)}}
    images = answers(blind)
    np.testing.assert_array_equal(images[0], images[1])
    assert np.abs(images[0, 0] - images[0, 1]).min() > 0
    np.testing.assert_array_equal(answers(), whole)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_independent_of_chunks(whole, batch_size):
    np.testing.assert_allclose(answers(batch_size=batch_size), whole, rtol=1e-5, atol=1e-6)


def test_answers_are_independent_of_devices(whole):
    with jax.set_mesh(parallel.mesh()):
        split = answers(batch_size=8)
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-6)


def test_replay_is_a_data_set_of_own_images():
    conditions = jnp.array([1, 1, 0, 2, 0], jnp.int32)
    of = lambda v: diffusion.replay(TASK, v, RNG, conditions, batch_size=2)
    replayed = jax.jit(of)(denoising.VARIABLES)
    rows = {"condition": conditions, "index": jnp.arange(5)}
    expected = generated(denoising.VARIABLES, rows)
    np.testing.assert_allclose(replayed["inputs"], expected, rtol=1e-5, atol=1e-6)
    for name, value in {**rows, "targets": conditions}.items():
        np.testing.assert_array_equal(replayed[name], value)
        assert replayed[name].dtype == jnp.int32
    assert sorted(replayed) == ["condition", "index", "inputs", "targets"]


def test_a_bank_is_every_step_of_one_run():
    keys = jax.random.split(RNG, 3)
    predict = functools.partial(diffusion.denoiser(TASK), denoising.VARIABLES)
    steps = diffusion.ddim_steps(denoising.PROCESS, 4)
    rows = jax.jit(lambda k: diffusion.bank(k, predict, denoising.SHAPE, CONDITIONS, steps))(keys)
    start = diffusion.noise_of(keys, denoising.SHAPE)
    until = diffusion.sample_until(steps)
    until = jax.jit(lambda count, until=until: until(keys, predict, start, CONDITIONS, count))
    for count in range(4):
        here = slice(3 * count, 3 * count + 3)
        x_t, t = until(count)
        np.testing.assert_allclose(rows["noised"][here], x_t, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(rows["time"][here], t)
        np.testing.assert_array_equal(rows["condition"][here], CONDITIONS)
    np.testing.assert_array_equal(rows["index"], np.arange(12))
    # Its rows are examples of the task: what is drawn for them leaves x_t and its time.
    drawn = tasks.drawn(TASK, rows)
    outputs, _ = TASK.apply(denoising.VARIABLES, drawn, None, False)
    for name in ("noised", "time"):
        np.testing.assert_array_equal(outputs[name], rows[name])


def test_prompts_are_drawn_for_as_classes_are(whole):
    """By a network that reads a prompt's first token: bit for bit, rows of the bank, too."""
    model = denoising.of_prompts(denoising.MODEL)
    sampler = diffusion.ddim(denoising.PROMPTED, 4, eta=0.5)
    task = tasks.diffusion(model, denoising.PROMPTED, sampler=sampler)
    prompts = denoising.prompts(CONDITIONS)
    of = lambda v: diffusion.answer_set(task, v, RNG, prompts, 5)
    np.testing.assert_array_equal(jax.jit(of)(denoising.VARIABLES), whole)
    replayed = jax.eval_shape(
        lambda v: diffusion.replay(task, v, RNG, prompts), denoising.VARIABLES
    )
    assert replayed["condition"].shape == replayed["targets"].shape == prompts.shape
    keys = jax.random.split(RNG, 3)
    steps = diffusion.ddim_steps(denoising.PROCESS, 4)

    def rows(task, told):
        predict = functools.partial(diffusion.denoiser(task), denoising.VARIABLES)
        of = lambda keys: diffusion.bank(keys, predict, denoising.SHAPE, told, steps)
        return jax.jit(of)(keys)

    read, classes = rows(task, prompts), rows(TASK, CONDITIONS)
    np.testing.assert_array_equal(read["noised"], classes["noised"])
    np.testing.assert_array_equal(read["condition"], denoising.prompts(classes["condition"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_condition": 0}, "per_condition must be >= 1, got 0"),
        ({"per_condition": 1.5}, "per_condition must be a whole number, got 1.5"),
        ({"conditions": jnp.zeros(0, jnp.int32)}, "conditions must be at least one, got none"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"task": TASK._replace(generate=None)}, "task must generate images"),
    ],
)
def test_bad_input_is_refused(change, message):
    given = {
        "task": TASK,
        "variables": denoising.VARIABLES,
        "rng": RNG,
        "conditions": CONDITIONS,
        "per_condition": 2,
    }
    with pytest.raises(ValueError, match=message):
        diffusion.answer_set(**{**given, **change})


def test_rows_without_seeds_are_refused():
    with pytest.raises(ValueError, match=r"columns 'condition' and 'index', lacks \['index'\]"):
        diffusion.draw_images(TASK, denoising.VARIABLES, RNG, {"condition": CONDITIONS})
