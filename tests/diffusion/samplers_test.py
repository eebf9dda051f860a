"""Every sampler against Gaussian data, whose denoiser is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import gaussian
from unlearnjax import diffusion

MU, S = 0.3, 0.5
N = 6


def process(schedule, clip=None):
    return diffusion.Process(schedule, (2, 1, 1), null=0, prediction="epsilon", clip=clip)


SMALL = process(diffusion.linear(12, 0.02, 0.5))
FULL = process(diffusion.scaled_linear())


@pytest.fixture
def given():
    """Keys, noise and conditions."""
    keys = jax.random.split(jax.random.key(0), N)
    return keys, diffusion.noise_of(keys, SMALL.shape), jnp.arange(N) / N


def compiled(sampler, process):
    predict = gaussian.predict(process, MU, S)
    return jax.jit(lambda k, x, c: sampler(k, predict, x, c))


def run(sampler, process, *given):
    return compiled(sampler, process)(*given)


@pytest.mark.parametrize(("make", "order"), [(diffusion.ddim, 1), (diffusion.heun, 2)])
def test_order_of_convergence_to_the_exact_flow(make, order):
    """Which is mu + sqrt(s^2 + sigma^2) scores, in EDM's coordinates."""
    scores = np.linspace(-2, 2, 8).reshape(4, 2, 1, 1)
    keys = jax.random.split(jax.random.key(0), 4)
    condition = jnp.arange(4) / 4
    mean = MU + np.arange(4).reshape(4, 1, 1, 1) / 4
    smallest = 1 / FULL.schedule.alphas_bar[0] - 1
    # Heun's last step, from the smallest level to 0, follows the slope there: all of its error that
    # more steps leave.
    deviation = S if order == 1 else S**2 / np.sqrt(S**2 + smallest)
    errors = []
    with jax.enable_x64(True):
        start = gaussian.start_of(FULL, mean, S, scores)
        for n in (25, 50, 100):
            images = run(make(FULL, n), FULL, keys, start, condition)
            errors.append(np.abs(images - mean - deviation * scores).max())
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), order, atol=0.3)
    assert errors[-1] < (0.05 if order == 1 else 0.001)


def moments(process, s, image, noise, drawn):
    """Mean and deviation that steps `x' = image x_0 + noise e + drawn z` lead to, from N(0, 1)."""
    mean, variance = 0.0, 1.0
    alphas = process.schedule.alphas_bar
    for alpha, of_image, of_noise, of_drawn in zip(alphas[::-1], image, noise, drawn, strict=True):
        a, b = np.sqrt(alpha), np.sqrt(1 - alpha)
        total = alpha * s**2 + 1 - alpha
        # E[x_0 | x] = MU + a s^2 / total (x - a MU), E[e | x] = b / total (x - a MU)
        slope = of_image * a * s**2 / total + of_noise * b / total
        mean = slope * (mean - a * MU) + of_image * MU
        variance = slope**2 * variance + of_drawn**2
    return mean, np.sqrt(variance)


@pytest.mark.parametrize("name", ["fixedlarge", "fixedsmall", "eta=0.5"])
def test_moments_of_samples_that_are_drawn_on_the_way(name):
    """As the recursion of the paper's own formulas says, and near the data's."""
    own = process(diffusion.cosine(100))
    alphas = own.schedule.alphas_bar
    before, after = alphas[::-1], np.append(alphas[-2::-1], 1.0)
    beta = 1 - before / after
    posterior = (1 - after) / (1 - before) * beta
    if name == "eta=0.5":
        sampler, drawn = diffusion.ddim(own, 100, 0.5), 0.5 * np.sqrt(posterior)
        image, noise = np.sqrt(after), np.sqrt(1 - after - drawn**2)
    else:
        sampler = diffusion.ddpm(own, name)
        drawn = np.sqrt(beta if name == "fixedlarge" else posterior) * (after < 1)
        # q(x_{t-1} | x_t, x_0), eq. 7, with x_t = sqrt(ab) x_0 + sqrt(1 - ab) e.
        of_noised = np.sqrt(before / after) * (1 - after) / (1 - before)
        image = np.sqrt(after) * beta / (1 - before) + of_noised * np.sqrt(before)
        noise = of_noised * np.sqrt(1 - before)
    n = 4096
    keys = jax.random.split(jax.random.key(1), n)
    start = diffusion.noise_of(keys, own.shape)
    images = run(sampler, own, keys, start, jnp.zeros(n))
    mean, deviation = moments(own, S, image, noise, drawn)
    # Four standard errors of 8,192 independent values.
    assert abs(images.mean() - mean) < 4 * deviation / np.sqrt(2 * n)
    assert abs(images.std() - deviation) < 4 * deviation / np.sqrt(4 * n)
    np.testing.assert_allclose([mean, deviation], [MU, S], atol=0.02)


@pytest.mark.parametrize("clip", [None, 0.4])
def test_ddim_that_draws_on_all_times_is_the_posterior(given, clip):
    own = SMALL._replace(clip=clip)
    keys, start, condition = given
    total = own.schedule.num_steps
    stepped = run(diffusion.ddim(own, total, eta=1.0), own, *given)
    ancestral = run(diffusion.ddpm(own, "fixedsmall"), own, *given)
    np.testing.assert_allclose(stepped, ancestral, rtol=1e-5, atol=1e-6)

    x, alphas = np.asarray(start, np.float64), np.append(1.0, own.schedule.alphas_bar)
    predict = jax.jit(gaussian.predict(own, MU, S))
    for i, t in enumerate(range(total, 0, -1)):  # DDPM's own formulas, in its x_t and x_0
        e = np.asarray(predict(jnp.asarray(x, jnp.float32), jnp.full(N, t - 1), condition))
        x0 = (x - np.sqrt(1 - alphas[t]) * e) / np.sqrt(alphas[t])
        x0 = x0 if clip is None else np.clip(x0, -clip, clip)
        beta = 1 - alphas[t] / alphas[t - 1]
        x = np.sqrt(alphas[t - 1]) * beta * x0 + np.sqrt(1 - beta) * (1 - alphas[t - 1]) * x
        x = x / (1 - alphas[t])
        z = np.asarray(diffusion.noise_of(keys, own.shape, i + 1))
        x = x + np.sqrt((1 - alphas[t - 1]) / (1 - alphas[t]) * beta) * z
    np.testing.assert_allclose(ancestral, x, rtol=1e-4, atol=1e-5)


def test_few_steps_of_ddpm_are_those_between_the_times_left(given):
    keys, start, condition = given
    alphas = SMALL.schedule.alphas_bar
    predict = jax.jit(gaussian.predict(SMALL, MU, S))
    x = np.asarray(start)
    for i, (t, left) in enumerate([(11, alphas[5]), (5, 1.0)]):
        e = np.asarray(predict(jnp.asarray(x), jnp.full(N, t), condition))
        x0 = (x - np.sqrt(1 - alphas[t]) * e) / np.sqrt(alphas[t])
        beta = 1 - alphas[t] / left
        x = np.sqrt(left) * beta * x0 + np.sqrt(1 - beta) * (1 - left) * x
        x = x / (1 - alphas[t])
        if i == 0:
            x = x + np.sqrt(beta) * np.asarray(diffusion.noise_of(keys, SMALL.shape, 1))
    images = run(diffusion.ddpm(SMALL, num_steps=2), SMALL, *given)
    np.testing.assert_allclose(images, x, rtol=1e-4, atol=1e-5)


def test_times_are_evenly_spaced_from_the_last():
    assert diffusion.ddim_steps(FULL, 4).times.tolist() == [999, 749, 499, 249]
    assert diffusion.ddim_steps(SMALL, 5).times.tolist() == [11, 9, 6, 4, 1]
    assert diffusion.ddim_steps(SMALL, 12).times.tolist() == list(range(11, -1, -1))


@pytest.mark.parametrize(
    ("sampler", "draws"),
    [
        (diffusion.ddim(SMALL, 4), False),
        (diffusion.ddim(SMALL, 4, eta=0.3), True),
        (diffusion.ddpm(SMALL), True),
        (diffusion.heun(SMALL, 3), False),
    ],
)
def test_samples_depend_on_their_own_key_alone(given, sampler, draws):
    keys, start, condition = given
    draw = compiled(sampler, SMALL)
    images = draw(keys, start, condition)
    order = np.array([3, 0, 5, 1, 4, 2])
    permuted = draw(keys[order], start[order], condition[order])
    np.testing.assert_array_equal(permuted, images[order])
    others = draw(jax.random.split(jax.random.key(9), N), start, condition)
    assert (np.abs(others - images).max() > 1e-3) == draws


def test_guidance_between_gaussians_moves_the_mean(given):
    """`e_0 + s (e_c - e_0)` is the exact denoiser of mean MU + s c."""
    keys, start, condition = given
    sampler = diffusion.ddim(SMALL, 6)
    denoise = lambda variables, *at: gaussian.predict(SMALL, MU, S)(*at)
    guided = diffusion.guided(denoise, 2.5, SMALL.null)
    of = lambda x: sampler(keys, lambda *at: guided({}, *at), x, condition)
    images = jax.jit(of)(start)
    expected = run(sampler, SMALL, keys, start, 2.5 * condition)
    np.testing.assert_allclose(images, expected, rtol=1e-4, atol=1e-5)


def test_images_are_clipped_on_the_way(given):
    keys, start, condition = given
    own = SMALL._replace(clip=0.25)
    x0 = run(diffusion.ddim(own, 1), own, *given)
    raw = run(diffusion.ddim(SMALL, 1), SMALL, *given)
    np.testing.assert_allclose(x0, np.clip(raw, -0.25, 0.25), rtol=1e-5)
    assert np.abs(raw).max() > 0.25
    for sampler in (diffusion.ddim(own, 5), diffusion.ddpm(own), diffusion.heun(own, 4)):
        assert np.abs(run(sampler, own, *given)).max() <= 0.25 + 1e-5

    # The noise after clipping is that of the clipped image: one of two steps by hand.
    alphas = own.schedule.alphas_bar
    first = diffusion.ddim_steps(own, 2).step(
        keys, gaussian.predict(own, MU, S), start, condition, jnp.array(0)
    )
    e = gaussian.predict(own, MU, S)(start, jnp.full(N, 11), condition)
    x0 = np.clip((start - np.sqrt(1 - alphas[11]) * e) / np.sqrt(alphas[11]), -0.25, 0.25)
    e = (start - np.sqrt(alphas[11]) * x0) / np.sqrt(1 - alphas[11])
    expected = np.sqrt(alphas[5]) * x0 + np.sqrt(1 - alphas[5]) * e
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.25])
def test_heun_by_hand(given, clip):
    """Algorithm 1 of Karras et al. in NumPy, and how often it asks."""
    own = SMALL._replace(clip=clip)
    keys, start, condition = given
    asked, predict = [], gaussian.predict(SMALL, MU, S)
    n, rho, largest = 3, 5.0, 2.0
    smallest = np.sqrt(1 / SMALL.schedule.alphas_bar[0] - 1)
    i = np.arange(n) / (n - 1)
    first, last = largest ** (1 / rho), smallest ** (1 / rho)
    levels = [*(first + i * (last - first)) ** rho, 0]

    def slope(x, sigma):
        time = diffusion.time_of(SMALL.schedule, jnp.full(N, sigma))
        asked.append(sigma)
        noise = np.asarray(predict(jnp.asarray(x / np.sqrt(1 + sigma**2)), time, condition))
        return noise if clip is None else (x - np.clip(x - sigma * noise, -clip, clip)) / sigma

    x = np.asarray(start) * np.sqrt(1 + largest**2)
    for sigma, to in zip(levels[:-1], levels[1:], strict=True):
        d = slope(x, sigma)
        x_next = x + (to - sigma) * d
        if to:
            x_next = x + (to - sigma) * (d + slope(x_next, to)) / 2
        x = x_next
    sampler = diffusion.heun(own, n, rho, largest)
    np.testing.assert_allclose(run(sampler, own, *given), x, rtol=1e-4, atol=1e-5)
    program = jax.make_jaxpr(lambda k, x, c: sampler(k, predict, x, c))(*given)
    (scan,) = [e for e in program.eqns if e.primitive.name == "scan"]
    assert scan.params["length"] == len(asked) == 2 * n - 1


def test_defaults_are_the_papers(given):
    assert len(diffusion.ddim_steps(FULL).times) == 25
    program = jax.make_jaxpr(lambda x: diffusion.heun(SMALL)(None, lambda x, *_: x, x, None))
    (scan,) = [e for e in program(given[1]).eqns if e.primitive.name == "scan"]
    assert scan.params["length"] == 2 * 18 - 1
    found = [run(diffusion.heun(SMALL, 4, *rho), SMALL, *given) for rho in ((), (7.0,))]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("eta", [0.0, 0.7])
def test_part_of_the_way_is_the_first_steps_and_says_its_time(given, eta):
    keys, start, condition = given
    steps = diffusion.ddim_steps(SMALL, 5, eta)
    predict = gaussian.predict(SMALL, MU, S)
    until = jax.jit(
        lambda count: diffusion.sample_until(steps)(keys, predict, start, condition, count)
    )
    trajectory = diffusion.trajectory(steps)
    noised, times = jax.jit(lambda x: trajectory(keys, predict, x, condition))(start)
    step = jax.jit(lambda x, i: steps.step(keys, predict, x, condition, i))
    np.testing.assert_array_equal(noised[0], start)
    x = start
    for count in range(5):
        x_t, t = until(count)
        assert t.dtype == jnp.int32 and t.tolist() == [steps.times[count]] * N
        np.testing.assert_allclose(x_t, x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(noised[count], x, rtol=1e-5, atol=1e-6)
        assert times[count].tolist() == t.tolist()
        x = step(x, count)
    np.testing.assert_allclose(run(diffusion.ddim(SMALL, 5, eta), SMALL, *given), x, rtol=1e-5)
    for outside, inside in ((-3, 0), (5, 4), (99, 4)):
        for one, other in zip(until(outside), until(inside), strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_gradient_comes_from_the_way(given):
    keys, start, condition = given
    steps = diffusion.ddim_steps(SMALL, 3)

    ways = diffusion.trajectory(steps), diffusion.sample_until(steps)

    @jax.jit
    @jax.value_and_grad
    def total(mu):
        predict = gaussian.predict(SMALL, mu, S)
        whole = ways[0](keys, predict, start, condition)
        part = ways[1](keys, predict, start, condition, 2)
        return whole[0].sum() + part[0].sum()

    (value, gradient), (other, _) = total(MU), total(MU + 1)
    assert gradient == 0 and value != other


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_types_are_kept(given, dtype):
    with jax.enable_x64(dtype == "float64"):
        keys, start, condition = given
        start = jnp.asarray(np.asarray(start), dtype)
        own = SMALL._replace(clip=1.0)
        predict = lambda noised, time, condition: 0.5 * noised.astype(jnp.float32)
        samplers = diffusion.ddim(own, 3, 0.5), diffusion.ddpm(own), diffusion.heun(own, 3)
        until = diffusion.sample_until(diffusion.ddim_steps(own, 3))
        for way in (*samplers, lambda *at: until(*at, 2)[0]):
            of = lambda k, x, c, way=way: way(k, predict, x, c)
            assert jax.eval_shape(of, keys, start, condition).dtype == dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: diffusion.ddim(SMALL, 13), r"num_steps must lie in \[1, 12\], got 13"),
        (lambda: diffusion.ddpm(SMALL, num_steps=0), r"num_steps must lie in \[1, 12\], got 0"),
        (lambda: diffusion.ddim(SMALL, 2.0), "num_steps must be a whole number, got 2.0"),
        (lambda: diffusion.ddim(SMALL, 2, eta=1.1), r"eta must lie in \[0, 1\], got 1.1"),
        (lambda: diffusion.ddpm(SMALL, "learned"), "variance must be one of .*got 'learned'"),
        (lambda: diffusion.heun(SMALL, 1), "num_steps must be >= 2, got 1"),
        (lambda: diffusion.heun(SMALL, 2.5), "num_steps must be a whole number, got 2.5"),
        (lambda: diffusion.heun(SMALL, rho=0.0), "rho must be > 0, got 0.0"),
        (lambda: diffusion.heun(SMALL, sigma_max=99.0), r"sigma_max must lie in \(.*\], got 99.0"),
        (lambda: diffusion.heun(SMALL, sigma_max=0.01), r"sigma_max must lie in \(.*\], got 0.01"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
