import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import denoising, problems
from unlearnjax import diffusion, models, tasks, training
from unlearnjax.types import Unlearner

TASK = denoising.task()
DATA = denoising.data()
VARIABLES = denoising.VARIABLES
STEPS = denoising.PROCESS.schedule.num_steps
RNG = jax.random.key(4)


@functools.partial(jax.jit, static_argnums=0)
def outputs(task, batch, variables=VARIABLES):
    return task.apply(variables, batch, None, False)[0]


drawn = jax.jit(tasks.drawn, static_argnums=(0, 2))


@functools.partial(jax.jit, static_argnums=0)
def generated(task, batch, variables=VARIABLES):
    return tasks.generate(task, variables, RNG, batch)["images"]


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_loss_by_hand(prediction):
    process = denoising.PROCESS._replace(prediction=prediction)
    task = denoising.task(process)
    batch = drawn(task, DATA)
    alpha = process.schedule.alphas_bar[np.asarray(batch["time"])].reshape(5, 1, 1, 1)
    noise, x0 = (np.asarray(batch[name]) for name in ("noise", "inputs"))
    noised = np.sqrt(alpha) * x0 + np.sqrt(1 - alpha) * noise
    w, b = (np.asarray(VARIABLES["params"][name]) for name in "wb")
    told = b[np.asarray(batch["condition"])] + np.asarray(batch["time"]) / 100
    predicted = np.tanh(noised * w) + told[:, None, None, None]
    target, as_noise = noise, predicted
    if prediction == "v":
        target = np.sqrt(alpha) * noise - np.sqrt(1 - alpha) * x0
        as_noise = np.sqrt(1 - alpha) * noised + np.sqrt(alpha) * predicted
    found = outputs(task, batch)
    np.testing.assert_allclose(found["noised"], noised, rtol=1e-5)
    np.testing.assert_allclose(found["target"], target, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["noise"], as_noise, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["time"], batch["time"])
    mean = lambda error: (error**2).reshape(5, -1).mean(1)
    np.testing.assert_allclose(task.loss(found, batch), mean(predicted - target), rtol=1e-5)
    error = task.metrics(found, batch)["noise_error"]
    np.testing.assert_allclose(error, mean(as_noise - noise), rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_who_predicts_nothing_loses_what_the_schedule_says(prediction):
    model = tasks.Model(None, lambda v, batch, r, t: ({"prediction": 0 * batch["noised"]}, v))
    process = denoising.PROCESS._replace(prediction=prediction, shape=(40, 40, 1))
    task = tasks.diffusion(model, process, num_draws=STEPS)  # each time once
    data = {"inputs": jnp.full((4, 40, 40, 1), 0.5), "index": jnp.arange(4)}
    found = training.evaluate(task, {}, {**data, "condition": jnp.zeros(4, int)})["loss"]
    left = process.schedule.alphas_bar
    expected = 1 if prediction == "epsilon" else (left + (1 - left) * 0.25).mean()
    # A mean of 128,000 squares, each of deviation sqrt(2).
    np.testing.assert_allclose(found.mean(), expected, rtol=0.02)


def test_the_parametrisations_of_one_network_agree():
    """The same function as network of v and, converted, of noise: one noise error, one sample."""
    of_noise = denoising.PROCESS._replace(prediction="epsilon")

    def apply(variables, batch, rng, train):
        said, _ = denoising.apply(variables, batch, rng, train)
        given = said["prediction"], batch["noised"], batch["time"], "v", "epsilon"
        return {"prediction": diffusion.convert(of_noise.schedule, *given)}, variables

    other = tasks.diffusion(tasks.Model(denoising.init, apply), of_noise)
    evaluate = lambda task: jax.jit(lambda data: training.evaluate(task, VARIABLES, data))(DATA)
    found = [evaluate(task) for task in (TASK, other)]
    np.testing.assert_allclose(found[0]["noise_error"], found[1]["noise_error"], rtol=1e-4)
    np.testing.assert_allclose(found[1]["loss"], found[1]["noise_error"], rtol=1e-6)
    images = [generated(task, DATA) for task in (TASK, other)]
    np.testing.assert_allclose(*images, rtol=1e-3, atol=1e-4)


def test_times_are_uniform_in_their_stratum_and_noise_is_normal():
    keys = jax.random.split(RNG, 4000)

    @jax.jit
    def draw(keys, *stratum):
        example = {"condition": jnp.int32(0), "stratum": jnp.array(stratum)}
        return jax.vmap(lambda key: TASK.draw(key, example, False))(keys)

    many = draw(keys, 0.0, 1.0)
    counts = np.bincount(many["time"], minlength=STEPS)
    assert many["time"].dtype == jnp.int32 and len(counts) == STEPS
    # Chi-square of 19 degrees of freedom: beyond 50 one time in ten thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 50
    noise = np.asarray(many["noise"])
    assert noise.shape[1:] == denoising.SHAPE
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)
    part = draw(keys, 0.25, 0.5)["time"]
    assert (part.min(), part.max()) == (5, 9)
    # Were a draw rounded up to the end of all, it would be the last time.
    assert set(draw(keys, 1.0, 1.0)["time"].tolist()) == {STEPS - 1}


def test_conditions_are_dropped_in_training_alone():
    keys = jax.random.split(RNG, 4000)
    example = {"condition": jnp.int32(1), "stratum": jnp.array([0.0, 1.0])}
    task = denoising.task(condition_dropout=0.25)
    of = lambda train: jax.jit(jax.vmap(lambda key: task.draw(key, example, train)))(keys)
    training_draws, evaluation_draws = of(True), of(False)
    trained, calm = training_draws["condition"], evaluation_draws["condition"]
    assert calm.tolist() == [1] * 4000 and set(trained.tolist()) == {1, denoising.NULL}
    dropped = np.mean(np.asarray(trained) == denoising.NULL)
    assert abs(dropped - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)
    np.testing.assert_array_equal(training_draws["time"], evaluation_draws["time"])
    assert trained.dtype == jnp.int32
    never = denoising.task(condition_dropout=0.0).draw(keys[0], example, True)
    assert int(never["condition"]) == 1


def test_prompts_are_dropped_whole_and_learned_as_classes_are():
    """By a network that reads a prompt's first token: bit for bit."""
    task = tasks.diffusion(denoising.of_prompts(denoising.MODEL), denoising.PROMPTED)
    told = {**DATA, "condition": denoising.prompts(DATA["condition"])}
    started = training.init_variables(task, told, RNG)
    of_classes = training.init_variables(TASK, DATA, RNG)
    jax.tree.map(np.testing.assert_array_equal, started, of_classes)
    many = {k: jnp.repeat(v, 40, axis=0) for k, v in told.items()}
    many["index"] = jnp.arange(200)
    single = {**many, "condition": many["condition"][:, 0]}
    of = lambda task, batch: drawn(task, tasks.keyed(batch, RNG), True)
    prompts, classes = of(task, many), of(TASK, single)
    np.testing.assert_array_equal(prompts["condition"], denoising.prompts(classes["condition"]))
    assert 0 < np.mean(classes["condition"] == denoising.NULL) < 0.25
    losses = [one.loss(outputs(one, b), b) for one, b in ((task, prompts), (TASK, classes))]
    np.testing.assert_array_equal(*losses)
    # Even where five classes are as many as a prompt has tokens, and in evaluation.
    for wrong in (DATA, {**DATA, "condition": told["condition"][:, :4]}):
        with pytest.raises(ValueError, match=r"condition must be \[N, 5\], as the process's null"):
            tasks.drawn(task, wrong)
    with pytest.raises(ValueError, match=r"condition must be \[N\], as the process's null"):
        tasks.drawn(TASK, told)


def test_defaults_are_those_of_the_papers():
    example = {"condition": jnp.int32(1), "stratum": jnp.array([0.0, 1.0])}
    tenth = denoising.task(condition_dropout=0.1, guidance=2.0)

    @jax.jit
    def dropped(keys):
        of = lambda task: jax.vmap(lambda key: task.draw(key, example, True)["condition"])
        return of(TASK)(keys), of(tenth)(keys)

    np.testing.assert_array_equal(*dropped(jax.random.split(RNG, 4000)))
    np.testing.assert_array_equal(generated(TASK, DATA), generated(tenth, DATA))
    assert TASK.num_draws == 16
    long = denoising.task(denoising.PROCESS._replace(schedule=diffusion.cosine(30)))
    program = jax.make_jaxpr(lambda v: tasks.generate(long, v, RNG, DATA))(VARIABLES)
    lengths = [e.params["length"] for e in program.eqns if e.primitive.name == "scan"]
    assert lengths == [25]


def test_a_data_free_batch_is_drawn_for():
    rows = {"condition": DATA["condition"], "index": DATA["index"]}
    batch = drawn(TASK, rows)
    whole = drawn(TASK, DATA)
    for name in ("time", "noise"):
        np.testing.assert_array_equal(batch[name], whole[name])
    noised = {**rows, "noised": batch["noise"], "time": batch["time"]}
    found = outputs(TASK, noised)
    assert "target" not in found
    np.testing.assert_array_equal(found["noised"], batch["noise"])
    with pytest.raises(ValueError, match="the loss needs images: 'inputs' in the batch"):
        TASK.loss(found, noised)
    with pytest.raises(ValueError, match="the model needs the column 'inputs'"):
        outputs(TASK, batch)


def test_evaluation_is_the_mean_over_one_time_of_each_part():
    """Deterministic, the same for every model, and independent of the batches."""
    task = denoising.task(num_draws=STEPS)
    own = outputs(tasks.expected(task), DATA)
    assert own["time"].tolist() == [list(range(STEPS))] * 5
    other = jax.tree.map(lambda x: -x, VARIABLES)
    for name in ("time", "noised", "target"):
        np.testing.assert_array_equal(outputs(tasks.expected(task), DATA, other)[name], own[name])
    losses = np.mean((own["prediction"] - own["target"]) ** 2, axis=(1, 2, 3, 4))
    # In batches of two, of which the last is padded; and in another order.
    evaluate = jax.jit(lambda data: training.evaluate(task, VARIABLES, data, batch_size=2)["loss"])
    np.testing.assert_allclose(evaluate(DATA), losses, rtol=1e-5)
    order = np.array([4, 1, 0, 3, 2])
    permuted = evaluate({k: v[order] for k, v in DATA.items()})
    np.testing.assert_allclose(permuted, losses[order], rtol=1e-5)


def test_divergence_is_the_loss_of_a_reference_that_says_the_truth():
    batch = drawn(TASK, DATA)
    found = outputs(TASK, batch)
    np.testing.assert_array_equal(TASK.divergence(found, found, batch), np.zeros(5))
    truth = {"prediction": found["target"]}
    distance = TASK.divergence(found, truth, batch)
    np.testing.assert_allclose(distance, TASK.loss(found, batch), rtol=1e-6)
    with pytest.raises(ValueError, match="temperature must be 1 where noise is predicted, got 2"):
        TASK.divergence(found, truth, batch, 2.0)


def test_student_and_teacher_see_the_same_draw_in_training():
    keyed = tasks.keyed(DATA, RNG)
    one, two = (outputs(TASK, drawn(TASK, keyed, True)) for _ in range(2))
    np.testing.assert_array_equal(TASK.divergence(one, two, DATA), np.zeros(5))
    again = outputs(TASK, drawn(TASK, tasks.keyed(DATA, jax.random.key(9)), True))
    assert TASK.divergence(one, again, DATA).max() > 0


def test_images_are_the_guided_samples_of_each_rows_seed():
    task = denoising.task(guidance=3.0)
    images = generated(task, DATA)
    keys = tasks.keyed({"index": DATA["index"]}, RNG)["key"]
    denoise = diffusion.guided(diffusion.denoiser(task), 3.0, denoising.NULL)
    start = diffusion.noise_of(keys, denoising.SHAPE)
    predict = functools.partial(denoise, VARIABLES)
    of = lambda steps: jax.jit(
        lambda x: diffusion.ddim(denoising.PROCESS, steps)(keys, predict, x, DATA["condition"])
    )(start)
    assert images.shape == DATA["inputs"].shape
    np.testing.assert_allclose(images, of(STEPS), rtol=1e-5, atol=1e-6)  # fewer than 25
    own = denoising.task(guidance=3.0, sampler=diffusion.ddim(denoising.PROCESS, 3))
    np.testing.assert_allclose(generated(own, DATA), of(3), rtol=1e-5, atol=1e-6)
    some = {"condition": DATA["condition"][3:], "index": DATA["index"][3:]}
    alone = generated(task, some)
    np.testing.assert_allclose(alone, images[3:], rtol=1e-5, atol=1e-6)
    # Without seeds of their own rows have their places'.
    placed = generated(task, {"condition": DATA["condition"]})
    np.testing.assert_allclose(placed, images, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the model needs the column 'condition'"):
        tasks.generate(task, VARIABLES, RNG, {"index": DATA["index"]})


def test_what_becomes_of_the_task_becomes_of_what_it_draws():
    """An edit, what a method serves, and adapters, which draw what the merged model draws."""
    images = lambda task, variables=VARIABLES: np.asarray(generated(task, DATA, variables))
    base = images(TASK)
    edited = tasks.edit(TASK, {"h": lambda h, batch: 0 * h})
    silent = {"params": {**VARIABLES["params"], "w": 0 * VARIABLES["params"]["w"]}}
    np.testing.assert_allclose(images(edited), images(TASK, silent), rtol=1e-4, atol=1e-5)
    assert np.abs(images(edited) - base).max() > 0.01

    served = Unlearner(
        None, None, frozenset(), lambda task: tasks.edit(task, {"h": lambda h, batch: 0 * h})
    ).serve(TASK)
    np.testing.assert_array_equal(images(served), images(edited))

    own = tasks.lora(TASK, 1, ["w"])
    variables = training.init_variables(own, DATA, RNG, tasks.as_base(VARIABLES))
    np.testing.assert_allclose(images(own, variables), base, rtol=1e-5, atol=1e-6)
    shifted = jax.tree.map(lambda x: x + 0.5, variables["params"])
    variables = {**variables, "params": shifted}
    merged = images(TASK, tasks.merged(own, variables))
    np.testing.assert_allclose(images(own, variables), merged, rtol=1e-4, atol=1e-5)
    assert np.abs(merged - base).max() > 0.01


def test_a_small_transformer_learns_digits():
    process = diffusion.Process(diffusion.cosine(), (8, 8, 1), 10)
    module = models.DiT(10, width=16, depth=1, num_heads=2)
    task = tasks.diffusion(tasks.from_linen(module, ("noised", "time", "condition")), process)
    raw = problems.digits(64)
    data = {name: jnp.asarray(raw[name]) for name in ("inputs", "targets", "index")}
    data = {**data, "condition": data["targets"]}
    fit = functools.partial(training.train, task, optax.adam(3e-3), data, jnp.arange(64))
    state, history = jax.jit(lambda rng: fit(rng, num_epochs=30, batch_size=32))(RNG)
    first, last = float(history["loss"][0]), float(history["loss"][-5:].mean())
    assert last < 0.75 * first, (first, last)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition_dropout": 1.5}, r"condition_dropout must lie in \[0, 1\], got 1.5"),
        ({"num_draws": 0}, "num_draws must be >= 1, got 0"),
        ({"num_draws": 1.5}, "num_draws must be a whole number, got 1.5"),
        ({"guidance": float("nan")}, "guidance must be finite, got nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        denoising.task(**options)


def test_bad_images_are_refused():
    wide = {**DATA, "inputs": jnp.ones((5, 2, 2, 3))}
    with pytest.raises(ValueError, match=r"inputs must be of the process's shape \(2, 2, 1\), got"):
        tasks.drawn(TASK, wide)
    raw = {**drawn(TASK, DATA), "inputs": jnp.ones((5, *denoising.SHAPE), jnp.uint8)}
    with pytest.raises(ValueError, match="inputs must be floating-point"):
        outputs(TASK, raw)


def test_networks_without_a_prediction_are_refused():
    model = tasks.Model(None, lambda *given: ({"logits": None}, given[0]))
    with pytest.raises(ValueError, match="'prediction'.*'logits'"):
        outputs(tasks.diffusion(model, denoising.PROCESS), drawn(TASK, DATA))
