import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearnjax import diffusion

SCHEDULES = {
    "linear": diffusion.linear(),
    "scaled_linear": diffusion.scaled_linear(),
    "cosine": diffusion.cosine(),
}
KINDS = ("epsilon", "x0", "v")


@pytest.fixture
def noised(rng):
    """Images, their noise and times, all in float64, and a schedule."""
    x0, noise = rng.normal(size=(2, 5, 4, 4, 2))
    return diffusion.linear(), x0, noise, np.array([0, 3, 500, 998, 999])


def test_shares_of_the_signal_by_hand():
    linear = diffusion.linear(3, 0.1, 0.3)
    np.testing.assert_allclose(linear.alphas_bar, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])
    scaled = diffusion.scaled_linear(3, 0.01, 0.25)  # roots 0.1, 0.3, 0.5
    np.testing.assert_allclose(scaled.alphas_bar, [0.99, 0.99 * 0.91, 0.99 * 0.91 * 0.75])
    f = np.cos((np.arange(5) / 4 + 0.1) / 1.1 * np.pi / 2) ** 2
    expected = [*(f[1:4] / f[0]), f[3] / f[0] * 0.001]  # the last step would leave nothing
    np.testing.assert_allclose(diffusion.cosine(4, 0.1).alphas_bar, expected)
    first, second = (np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2 for t in (0, 0.001))
    np.testing.assert_allclose(diffusion.cosine().alphas_bar[0], second / first)


@pytest.mark.parametrize(
    ("name", "largest", "smallest"),
    [("linear", 157.4, 0.0100), ("scaled_linear", 14.61, 0.0292)],
)
def test_published_ranges_of_noise(name, largest, smallest):
    ends = diffusion.noise_level(SCHEDULES[name], jnp.array([999, 0]))
    np.testing.assert_allclose(ends, [largest, smallest], rtol=3e-3)


@pytest.mark.parametrize("name", SCHEDULES)
def test_signal_and_noise_share_the_variance(name):
    schedule = SCHEDULES[name]
    assert schedule.num_steps == 1000 and (np.diff(schedule.alphas_bar) < 0).all()
    signal, noise = diffusion.coefficients(schedule, jnp.arange(1000))
    np.testing.assert_allclose(signal**2 + noise**2, np.ones(1000), rtol=1e-6)
    np.testing.assert_allclose(signal**2, schedule.alphas_bar, rtol=1e-6)
    # Not from 1 - alpha in single precision.
    np.testing.assert_allclose(noise**2, 1 - schedule.alphas_bar, rtol=1e-6)


def test_what_is_said_of_true_noise_is_true(noised):
    schedule, x0, noise, time = noised
    with jax.enable_x64(True):
        x_t = diffusion.add_noise(schedule, jnp.asarray(x0), jnp.asarray(noise), time)
        share = schedule.alphas_bar[time].reshape(5, 1, 1, 1)
        a, s = np.sqrt(share), np.sqrt(1 - share)
        np.testing.assert_allclose(x_t, a * x0 + s * noise, rtol=1e-12)
        truth = {"epsilon": noise, "x0": x0, "v": a * noise - s * x0}
        v = diffusion.velocity(schedule, jnp.asarray(x0), jnp.asarray(noise), time)
        np.testing.assert_allclose(v, truth["v"], rtol=1e-12)
        for source in KINDS:
            for target in KINDS:
                given = jnp.asarray(truth[source])
                told = diffusion.convert(schedule, given, x_t, time, source, target)
                np.testing.assert_allclose(told, truth[target], atol=1e-9)


@pytest.mark.parametrize("other", KINDS)
def test_conversions_are_inverses_of_any_prediction(noised, rng, other):
    schedule, x0, noise, time = noised
    with jax.enable_x64(True):
        x_t = diffusion.add_noise(schedule, jnp.asarray(x0), jnp.asarray(noise), time)
        guess = jnp.asarray(rng.normal(size=x0.shape))
        for kind in KINDS:
            told = diffusion.convert(schedule, guess, x_t, time, kind, other)
            back = diffusion.convert(schedule, told, x_t, time, other, kind)
            np.testing.assert_allclose(back, guess, atol=1e-9)
            if kind == other:
                assert told is guess


def test_edm_coordinates_are_the_image_plus_noise(noised):
    schedule, x0, noise, time = noised
    with jax.enable_x64(True):
        x_t = diffusion.add_noise(schedule, jnp.asarray(x0), jnp.asarray(noise), time)
        x, sigma = diffusion.to_edm(schedule, x_t, jnp.asarray(time))
        np.testing.assert_allclose(x, x0 + np.reshape(sigma, (5, 1, 1, 1)) * noise, rtol=1e-9)
        again, times = diffusion.from_edm(schedule, x, sigma)
        np.testing.assert_allclose(again, x_t, rtol=1e-9)
        np.testing.assert_allclose(times, time, atol=1e-8)


def test_times_in_between_have_levels_in_between():
    schedule = SCHEDULES["cosine"]
    with jax.enable_x64(True):
        whole = jnp.array([0, 7, 998, 999])
        at_whole = diffusion.coefficients(schedule, whole.astype(float))
        np.testing.assert_allclose(at_whole, diffusion.coefficients(schedule, whole), rtol=1e-9)
        level = diffusion.noise_level(schedule, jnp.array([400.25]))
        low, high = diffusion.noise_level(schedule, jnp.array([400, 401]))
        np.testing.assert_allclose(level, low**0.75 * high**0.25, rtol=1e-9)
        np.testing.assert_allclose(diffusion.time_of(schedule, level), [400.25], rtol=1e-9)


def test_no_time_outside_of_the_schedule_is_answered():
    schedule = diffusion.linear(10)
    for times in ([-1, 10, 3], [-0.5, 9.5, 3.0]):
        signal, noise = diffusion.coefficients(schedule, jnp.array(times))
        assert np.isnan(signal).tolist() == np.isnan(noise).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_types_are_kept(dtype):
    schedule, time = diffusion.linear(10), jnp.array([2, 3])
    x, noise = jnp.ones((2, 3), dtype), jnp.ones((2, 3))
    made = [diffusion.add_noise(schedule, x, noise, time), diffusion.velocity(schedule, x, x, time)]
    made += [diffusion.convert(schedule, x, noise, time, "v", kind) for kind in ("epsilon", "x0")]
    made.append(diffusion.to_edm(schedule, x, time)[0])
    made.append(diffusion.from_edm(schedule, x, jnp.array([0.1, 0.2]))[0])
    assert {value.dtype for value in made} == {jnp.dtype(dtype)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusion.linear(1), "num_steps must be >= 2, got 1"),
        (lambda: diffusion.cosine(2.5), "num_steps must be a whole number, got 2.5"),
        (lambda: diffusion.linear(last=1.0), r"last must lie in \(0, 1\), got 1.0"),
        (lambda: diffusion.scaled_linear(first=-0.1), r"first must lie in \(0, 1\), got -0.1"),
        (lambda: diffusion.cosine(offset=-1), "offset must be >= 0, got -1"),
        (
            lambda: diffusion.convert(diffusion.linear(2), None, None, None, "eps", "x0"),
            r"source must be one of \('epsilon', 'x0', 'v'\), got 'eps'",
        ),
        (
            lambda: diffusion.convert(diffusion.linear(2), None, None, None, "v", "w"),
            "target must be one of",
        ),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
