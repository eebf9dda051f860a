import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.unlearning.diffusion import toy
from unlearnjax import diffusion, unlearning
from unlearnjax.types import PARTS, Request
from unlearnjax.unlearning import objectives
from unlearnjax.unlearning.diffusion import conditions, esd

PROCESS = toy.PROCESS._replace(shape=(2, 2, 1), clip=3.0)
TASK = toy.gaussian_task(PROCESS)
# Of equal variances: then predictions are linear in the mean, and so is what ESD aims at.
MEAN = np.array([0.5, -0.5, 0.2, 0.1])
START = jax.tree.map(lambda x: x.astype(jnp.float32), toy.variables_of(MEAN, np.full(4, -1.0)))
OTHER = jax.tree.map(lambda x: x + jnp.float32(0.3), START)
REQUEST = Request({"condition": jnp.zeros(3, jnp.int32), "targets": jnp.zeros(3)})


def rows(condition):
    return {
        "condition": jnp.asarray(condition, jnp.int32),
        "index": 10 + jnp.arange(len(condition)),
        "part": jnp.full(len(condition), PARTS.index("forget")),
    }


def prepared(monkeypatch, batch, **options):
    """Of a seed, the batch as the objective makes it; its term and views are not at issue here."""
    found = {}

    def combine(*, forget, views, prepare):
        found.update(prepare=prepare, views=views)

    monkeypatch.setattr(objectives, "combine", combine)
    defaults = {"eta": 1.0, "guidance": 3.0, "sample_steps": 5, "bank": None}
    esd.erasing(PROCESS, **{**defaults, "drawn_by": "student", **options})
    monkeypatch.undo()
    assert found["views"] == ("null",)
    run = jax.jit(lambda key: found["prepare"](TASK, OTHER, {"original": START}, batch, key))
    return lambda seed: run(jax.random.key(seed))


def on_the_way(model, batch, seed, guidance, num_steps):
    """All x_t of the same noise, by the loop that stops nowhere."""
    key_rng, _ = jax.random.split(jax.random.key(seed))
    keys = conditions.keys(batch, key_rng)
    denoise = diffusion.guided(diffusion.denoiser(TASK), guidance, PROCESS.null)
    steps = diffusion.ddim_steps(PROCESS, num_steps)
    start = diffusion.noise_of(keys, PROCESS.shape)
    run = jax.jit(diffusion.trajectory(steps), static_argnums=1)
    return run(keys, functools.partial(denoise, model), start, batch["condition"])


@pytest.mark.parametrize("drawn_by, model", [("student", OTHER), ("original", START)])
def test_x_t_is_what_is_about_to_be_drawn_and_t_is_its_own_time(monkeypatch, drawn_by, model):
    batch, times = rows([0, 1, 0, 2]), set()
    prepare = prepared(monkeypatch, batch, drawn_by=drawn_by)
    for seed in range(60):
        drawn = prepare(seed)
        times.add(int(drawn["time"][0]))
        if seed > 1:
            continue
        noised, time = on_the_way(model, batch, seed, 3.0, 5)
        place = np.argmax(np.asarray(time[:, 0] == drawn["time"][0]))
        np.testing.assert_array_equal(drawn["time"], time[place])
        np.testing.assert_allclose(drawn["noised"], noised[place], rtol=1e-4, atol=1e-5)
        assert drawn["null.condition"].tolist() == [3] * 4
        np.testing.assert_array_equal(drawn["condition"], batch["condition"])
    assert times == set(diffusion.ddim_steps(PROCESS, 5).times.tolist())  # every one is drawn


def test_a_bank_has_all_steps_of_whole_runs(monkeypatch):
    batch = rows([0, 1, 0, 0, 2, 2])
    drawn = prepared(monkeypatch, batch, bank=3, guidance=1.0)(0)
    noised, time = on_the_way(OTHER, batch, 0, 1.0, 3)
    np.testing.assert_array_equal(drawn["time"].reshape(3, 2), time[:, :2])
    found = drawn["noised"].reshape(3, 2, *PROCESS.shape)
    np.testing.assert_allclose(found, noised[:, :2], rtol=1e-4, atol=1e-5)
    assert drawn["condition"].tolist() == [0, 1] * 3


@pytest.mark.parametrize("eta", [1.0, 0.0, 2.5])
def test_the_target_is_the_originals_extrapolation(rng, eta):
    shape = (2, *PROCESS.shape)
    own, null, conditional = (jnp.asarray(rng.normal(size=shape)) for _ in range(3))
    teachers = {"original": {"prediction": conditional, "null.prediction": null}}
    found = esd.away(eta)(TASK, {"prediction": own}, {}, teachers)
    target = (1 + eta) * np.asarray(null) - eta * np.asarray(conditional)
    np.testing.assert_allclose(found, ((own - target) ** 2).mean((1, 2, 3)), rtol=1e-5)


def test_what_is_asked_for_is_what_the_objective_is_made_of(monkeypatch):
    asked = []
    monkeypatch.setattr(esd, "erasing", lambda *given: asked.append(given))
    options = {"eta": 2.0, "guidance": 5.0, "sample_steps": 7, "bank": 4, "drawn_by": "original"}
    unlearning.esd(optax.sgd(0.1), PROCESS, batch_size=8, **options)
    unlearning.esd(optax.sgd(0.1), PROCESS)
    published = (PROCESS, 1.0, 3.0, 50, None, "student")
    assert asked == [(PROCESS, *options.values()), published]


@pytest.mark.parametrize("eta, zero", [(-1.0, True), (1.0, False)])
def test_with_eta_minus_one_the_original_has_no_loss(eta, zero):
    """The target is then the conditional prediction itself."""
    objective = esd.erasing(PROCESS, eta, 3.0, 5, None, "student")
    loss = lambda v: toy.losses_of(objective, TASK, v, rows([0, 1, 2]), {"original": START}).sum()
    value, gradient = jax.jit(jax.value_and_grad(loss))(START)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    assert (float(value) < 1e-10) == zero and (largest < 1e-5) == zero


@pytest.mark.parametrize("bank", [pytest.param(None, marks=pytest.mark.slow), 5])
def test_the_mean_goes_beyond_the_null_conditions_without_any_image(bank):
    method = unlearning.esd(
        optax.adam(0.05), PROCESS, sample_steps=5, bank=bank, num_steps=100, batch_size=10
    )
    assert method.needs == {"forget"}
    method = unlearning.enforce(method)
    # What the images are called besides is not what is erased.
    named = {"condition": jnp.ones(3, jnp.int32), "alone.condition": REQUEST.forget["condition"]}
    request = Request({**REQUEST.forget, **named})
    updated = jax.jit(lambda key: method.update(key, TASK, START, (), request)[0])(
        jax.random.key(0)
    )
    mean = np.asarray(updated["params"]["mean"])
    np.testing.assert_allclose(mean[0], 2 * MEAN[3] - MEAN[0], atol=0.05)
    np.testing.assert_array_equal(mean[1:], np.float32(MEAN)[1:])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"drawn_by": "teacher"}, "drawn_by must be one of"),
        ({"eta": float("inf")}, "eta must be finite, got inf"),
        ({"guidance": float("nan")}, "guidance must be finite, got nan"),
        ({"eta": "1"}, "eta must be a number, got '1'"),
        ({"sample_steps": 51}, r"sample_steps must lie in \[1, 50\], got 51"),
        ({"sample_steps": 0}, r"sample_steps must lie in \[1, 50\], got 0"),
        ({"bank": 2000, "batch_size": 2000}, r"bank must lie in \[1, 50\], got 2000"),
        ({"sample_steps": 2.5}, "sample_steps must be a whole number"),
        ({"bank": 3, "batch_size": 8}, "bank must divide the batch_size of 8, got 3"),
        ({"bank": 0}, r"bank must lie in \[1, 50\], got 0"),
        ({"bank": 1.0}, "bank must be a whole number"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.esd(optax.sgd(0.1), PROCESS, **options)


def test_unknown_conditions_are_refused_before_any_compute():
    method = unlearning.esd(optax.sgd(0.1), PROCESS)
    with pytest.raises(ValueError, match=r"condition of forget must be in 0..2, got \[3\]"):
        method.update(None, TASK, START, (), Request({"condition": np.array([3])}))
