import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.unlearning.diffusion import toy
from unlearnjax import diffusion, tasks
from unlearnjax.unlearning.diffusion import distillation

TIMES = distillation.Times(25, 2, 40)
SHAPE = (2, 2, 1)
PROCESS = toy.PROCESS._replace(shape=SHAPE)


def players(rng, c=(0.1, -0.7, 0.4, 0.2), g=(0.3, 0.5, -0.2, 0.0)):
    """A generator and a fake score that differ."""
    new = lambda mean: toy.variables_of(mean, rng.normal(size=4) / 3)["params"]
    return {"generator": new(np.array(g)), "fake_score": new(np.array(c))}


def rows(rng, n=5):
    """A batch as the players' draws leave it."""
    return {
        "condition": jnp.asarray(rng.integers(3, size=n)),
        "anchor.condition": jnp.asarray(rng.integers(3, size=n)),
        "latent": jnp.asarray(rng.normal(size=(n, *SHAPE))),
        "noise": jnp.asarray(rng.normal(size=(n, *SHAPE))),
        "time": jnp.asarray(rng.integers(TIMES.low, TIMES.high, size=n)),
    }


def wide(x):
    x = np.asarray(x)
    return jnp.asarray(x.astype(float) if x.dtype.kind == "f" else x)


def seen_by_hand(params, noised, time, condition):
    """`E[x_0 | x_t]` for pixels `N(mean, var)`: a precision-weighted mean."""
    alpha = PROCESS.schedule.alphas_bar[np.asarray(time)][:, None, None, None]
    mean = np.asarray(params["mean"])[condition][:, None, None, None]
    var = np.exp(np.asarray(params["log_var"]))[condition][:, None, None, None]
    of_data = np.sqrt(alpha) * noised / (1 - alpha)
    return (of_data + mean / var) / (alpha / (1 - alpha) + 1 / var)


def loss_by_hand(generator, fake, true, batch, alpha, omega=None):
    """The published formula, in NumPy, with the mean over pixels for the sum."""
    batch = {k: np.asarray(v) for k, v in batch.items()}
    c, p, t = batch["condition"], batch["anchor.condition"], batch["time"]
    start = np.sqrt(1 - PROCESS.schedule.alphas_bar[TIMES.init]) * batch["latent"]
    x = seen_by_hand(generator, start, np.full(len(c), TIMES.init), c)
    ab = PROCESS.schedule.alphas_bar[t][:, None, None, None]
    noised = np.sqrt(ab) * x + np.sqrt(1 - ab) * batch["noise"]
    f, g = seen_by_hand(true, noised, t, p), seen_by_hand(fake, noised, t, c)
    own = np.maximum(np.abs(f - x).mean((1, 2, 3)), 1e-5)
    omega = own if omega is None else omega
    return ((f - g) * ((f - x) - alpha * (f - g))).mean((1, 2, 3)) / omega, own


def generator_loss(task, params, true, batch):
    outputs, _ = task.apply({"params": params, "other": 1}, batch, None, False)
    return task.loss(outputs, batch)


def test_the_loss_is_the_published_formula(rng):
    true, fake, images = rng.normal(size=(3, 4, *SHAPE))
    images[3] = true[3] + 1e-7  # omega at its bound
    f, g, x = (v.reshape(4, -1) for v in (true, fake, images))
    for alpha in (1.2, 0.5, 1.0):
        expected = ((f - g) * ((f - x) - alpha * (f - g))).sum(1) / f.shape[1]
        expected /= np.maximum(np.abs(f - x).mean(1), 1e-5)
        with jax.enable_x64(True):
            found = distillation.sid_loss(*map(jnp.asarray, (true, fake, images)), alpha)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    reduced = ((f - g) * (g - x)).mean(1) / np.maximum(np.abs(f - x).mean(1), 1e-5)
    np.testing.assert_allclose(found, reduced, rtol=1e-9)  # alpha was 1


@pytest.mark.parametrize("prediction", ["v", pytest.param("epsilon", marks=pytest.mark.slow)])
def test_the_generators_loss_and_gradient_are_those_of_the_closed_form(rng, prediction):
    """Its images go through both scores; omega is a constant."""
    alpha, batch = 1.2, rows(rng)
    own = players(rng)
    true = toy.variables_of([0.9, -0.2, 0.6, 0.0], rng.normal(size=4) / 3)["params"]
    with jax.enable_x64(True):
        own, true, batch = jax.tree.map(wide, (own, true, batch))
        process = PROCESS._replace(prediction=prediction)
        task = distillation.generator_task(toy.gaussian_task(process), process, TIMES, true, alpha)
        value, gradient = jax.value_and_grad(
            lambda params: generator_loss(task, params, true, batch).sum()
        )(own)
        expected, omega = loss_by_hand(own["generator"], own["fake_score"], true, batch, alpha)
        np.testing.assert_allclose(value, expected.sum(), rtol=1e-10)
        for name in own["generator"]:
            for i in range(3):
                sides = []
                for step in (1e-6, -1e-6):
                    moved = np.array(own["generator"][name])
                    moved[i] += step
                    generator = {**own["generator"], name: moved}
                    by_hand = loss_by_hand(generator, own["fake_score"], true, batch, alpha, omega)
                    sides.append(by_hand[0].sum())
                difference = (sides[0] - sides[1]) / 2e-6
                np.testing.assert_allclose(
                    gradient["generator"][name][i], difference, rtol=1e-6, atol=1e-8
                )
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient["fake_score"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["generator"]))


def test_no_gradient_reaches_the_true_score(rng):
    own, batch = players(rng), rows(rng)

    def loss(true):
        task = distillation.generator_task(toy.gaussian_task(PROCESS), PROCESS, TIMES, true, 1.2)
        return generator_loss(task, own, true, batch).sum()

    gradient = jax.grad(loss)(own["fake_score"])
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient))


def test_equal_scores_of_equal_conditions_leave_nothing_to_learn(rng):
    own, batch = players(rng), rows(rng)
    batch["anchor.condition"] = batch["condition"]
    own["generator"] = jax.tree.map(lambda x: x + 0.3, own["fake_score"])
    task = distillation.generator_task(
        toy.gaussian_task(PROCESS), PROCESS, TIMES, own["fake_score"], 1.2
    )
    loss = lambda params: generator_loss(task, params, own["fake_score"], batch)
    assert not np.asarray(loss(own)).any()
    # f and f' move alike: zero but for the rounding of what is summed.
    gradient = jax.grad(lambda params: loss(params).sum())(own)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    assert largest < 1e-6


def test_the_fake_score_learns_on_what_the_generator_draws_and_only_it_learns(rng):
    own, batch = players(rng), rows(rng)
    task = distillation.fake_score_task(toy.gaussian_task(PROCESS), PROCESS, TIMES)

    def losses(params):
        outputs, _ = task.apply({"params": params}, batch, jax.random.key(0), True)
        return task.loss(outputs, batch)

    start = np.sqrt(1 - PROCESS.schedule.alphas_bar[TIMES.init]) * batch["latent"]
    begin = np.full(len(start), TIMES.init)
    x = seen_by_hand(own["generator"], start, begin, batch["condition"])
    noised = diffusion.add_noise(PROCESS.schedule, jnp.asarray(x), batch["noise"], batch["time"])
    told = batch["time"], batch["condition"]
    noise = toy.gaussian_noise(PROCESS, own["fake_score"], noised, *told)
    expected = np.mean((noise - batch["noise"]) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(losses(own), expected, rtol=1e-4)
    gradient = jax.grad(lambda params: losses(params).sum())(own)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradient["generator"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["fake_score"]))


def test_players_draw_a_latent_a_time_in_between_and_noise(rng):
    task = distillation.fake_score_task(toy.gaussian_task(PROCESS), PROCESS, TIMES)
    batch = {"condition": jnp.zeros(4000, jnp.int32), "index": jnp.arange(4000)}
    drawn = toy.drawn(task, batch, True)
    time = np.asarray(drawn["time"])
    assert set(time.tolist()) == set(range(TIMES.low, TIMES.high))
    latent, noise = (np.asarray(drawn[name]).reshape(4000, -1) for name in ("latent", "noise"))
    joint = np.cov(np.concatenate([latent, noise], axis=1).T)
    np.testing.assert_allclose(joint, np.eye(8), atol=0.12)  # five deviations of 4,000 samples
    assert not np.asarray(drawn["condition"]).any()


def test_only_the_network_that_moves_is_in_training_mode(rng):
    """In training, this network says three times as much."""
    process = PROCESS
    plain, doubled = toy.network_task(process), toy.network_task(process, 3.0)
    key, batch = jax.random.key(0), rows(rng)
    params = lambda seed: plain.init(jax.random.key(seed), batch)["params"]
    own, true = {"generator": params(0), "fake_score": params(1)}, params(2)

    def outputs(make, task, train):
        made = make(task)
        return made.apply({"params": own}, batch, key if train else None, train)[0]

    fake = lambda task: distillation.fake_score_task(task, process, TIMES)
    moving, still = outputs(fake, doubled, True), outputs(fake, plain, True)
    np.testing.assert_allclose(moving["noised"], still["noised"], rtol=1e-6)
    np.testing.assert_allclose(moving["prediction"], 3 * still["prediction"], rtol=1e-5)

    drawing = lambda task: distillation.generator_task(task, process, TIMES, true, 1.2)
    moving, still = outputs(drawing, doubled, True), outputs(drawing, plain, True)
    assert not np.allclose(moving["images"], still["images"])
    noised = diffusion.add_noise(process.schedule, moving["images"], batch["noise"], batch["time"])
    said = plain.apply(
        {"params": true},
        {"noised": noised, "time": batch["time"], "condition": batch["anchor.condition"]},
        None,
        False,
    )[0]["noise"]
    kinds = "epsilon", "x0"
    seen = diffusion.convert(process.schedule, said, noised, batch["time"], *kinds)
    np.testing.assert_allclose(moving["true"], seen, rtol=1e-4, atol=1e-5)


def test_the_published_times_are_those_of_the_linear_schedule_at_any_other():
    published = distillation.times_of(toy.PROCESS._replace(schedule=diffusion.linear()))
    assert published == (440, 38, 712)
    cosine = diffusion.cosine()
    found = distillation.times_of(toy.PROCESS._replace(schedule=cosine))
    there = diffusion.linear().alphas_bar[list(published)]
    here = cosine.alphas_bar[list(found)]
    np.testing.assert_allclose(here, there, atol=2e-3)
    assert distillation.times_of(PROCESS, 3, 0, 50) == (3, 0, 50)


@pytest.mark.parametrize(
    "times, message",
    [
        ((50, 2, 40), "t_init must be in 0..49, got 50"),
        ((-1, 2, 40), "t_init must be in 0..49, got -1"),
        ((25, 40, 40), "t_min must be less than t_max, both in 0..50, got 40 and 40"),
        ((25, -1, 40), "t_min must be less than t_max"),
        ((25, 2, 51), "t_min must be less than t_max"),
        ((25.0, 2, 40), "t_init must be a whole number"),
        ((25, 2.5, 40), "t_min must be a whole number"),
        ((25, 2, 40.0), "t_max must be a whole number"),
    ],
)
def test_times_out_of_range_are_refused(times, message):
    with pytest.raises(ValueError, match=message):
        distillation.times_of(PROCESS, *times)


def test_a_served_task_draws_in_one_pass_and_within_bounds(rng):
    process = PROCESS._replace(clip=0.4)
    calls = []
    task = toy.gaussian_task(process)
    counted = task._replace(apply=lambda *args: calls.append(1) or task.apply(*args))
    served = distillation.one_step_task(counted, process, TIMES.init)
    variables = {"params": players(rng)["generator"]}
    batch = {"condition": jnp.array([0, 1, 2, 1]), "index": jnp.array([5, 6, 7, 9])}
    key = jax.random.key(1)
    images = np.asarray(tasks.generate(served, variables, key, batch)["images"])
    assert len(calls) == 1
    latent = diffusion.noise_of(tasks.keyed({"index": batch["index"]}, key)["key"], SHAPE)
    start = np.sqrt(1 - process.schedule.alphas_bar[TIMES.init]) * latent
    expected = seen_by_hand(variables["params"], start, np.full(4, TIMES.init), batch["condition"])
    np.testing.assert_allclose(images, np.clip(expected, -0.4, 0.4), rtol=1e-4, atol=1e-6)
    assert (np.abs(images) == np.float32(0.4)).any()
    one = {name: value[2:3] for name, value in batch.items()}
    alone = tasks.generate(served, variables, key, one)["images"]
    np.testing.assert_allclose(alone, images[2:3], rtol=1e-6)
    # Without ids they are 0, 1, ...; without a bound nothing is clipped.
    free = distillation.one_step_task(task, PROCESS, TIMES.init)
    first = {"condition": batch["condition"][:1]}
    numbered = {**first, "index": jnp.array([0])}
    both = [tasks.generate(free, variables, key, b)["images"] for b in (first, numbered)]
    np.testing.assert_array_equal(*both)
    assert np.abs(tasks.generate(free, variables, key, batch)["images"]).max() > 0.4
