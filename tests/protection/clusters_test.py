"""Clusters of a linear surrogate, whose features are `x @ w`."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from unlearnjax import models, protection, tasks

KEY = jax.random.key(0)
SIDE, WIDTH = 3, 4
EPSILON = 0.1


def surrogate(nan=False):
    """The task, its variables, and the weights `[9, 4]`."""
    w = np.random.default_rng(0).normal(size=(SIDE * SIDE, WIDTH))

    def apply(variables, batch, rng, train):
        features = batch["inputs"].reshape(len(batch["inputs"]), -1) @ variables["params"]["w"]
        return {"logits": features, "features": jnp.where(nan, jnp.nan, features)}, variables

    task = tasks.classification(tasks.Model(lambda rng, batch: None, apply))
    return task, {"params": {"w": jnp.asarray(w, jnp.float32)}}, w


def images(number=12):
    """Two groups of images that are all alike, and far from black and white."""
    rng = np.random.default_rng(1)
    two = rng.uniform(0.3, 0.7, size=(2, SIDE, SIDE, 1))
    return jnp.asarray(two[np.arange(number) % 2], jnp.float32)


def divergence(x, goal, w):
    """`KL(softmax(goal) || softmax(x w))`."""
    target = special.softmax(goal)
    return (target * (np.log(target) - special.log_softmax(x @ w))).sum()


def make(**options):
    task, variables, _ = surrogate()
    fields = {"num_clusters": 2, "epsilon": EPSILON, "num_steps": 1, "batch_size": 3}
    return protection.clusters(task, variables, **fields | options)


def test_a_step_descends_the_divergence_from_the_next_clusters_centre():
    """The gradient by central differences; all images of a cluster are alike."""
    rate = 50.0
    inputs = images()
    memory = make(tx=optax.sgd(rate), over="own").fit(KEY, {"inputs": inputs})
    w = surrogate()[2]
    cluster = np.asarray(memory.cluster)
    np.testing.assert_array_equal(cluster[::2], cluster[0])
    np.testing.assert_array_equal(cluster[1::2], 1 - cluster[0])
    for number in range(2):
        x = np.asarray(inputs[list(cluster).index(number)], np.float64).ravel()
        goal = np.asarray(inputs[list(cluster).index(1 - number)], np.float64).ravel() @ w
        np.testing.assert_allclose(memory.centres[1 - number], goal, rtol=1e-4)
        steps = 1e-5 * np.eye(len(x))
        slope = [(divergence(x + s, goal, w) - divergence(x - s, goal, w)) / 2e-5 for s in steps]
        expected = EPSILON * np.tanh(-rate * EPSILON * np.array(slope))
        assert np.abs(expected).max() > 0.02
        np.testing.assert_allclose(memory.noise[number].ravel(), expected, rtol=1e-3, atol=1e-6)


def test_noise_of_all_images_is_the_mean_slope_of_all():
    rate, inputs = 50.0, images()
    memory = make(tx=optax.sgd(rate), over="all", batch_size=20_000).fit(KEY, {"inputs": inputs})
    w, x = surrogate()[2], np.asarray(inputs[:2], np.float64).reshape(2, -1)
    goal = np.asarray(memory.centres[1], np.float64)
    steps = 1e-5 * np.eye(x.shape[1])
    slope = [
        np.mean([divergence(row + s, goal, w) - divergence(row - s, goal, w) for row in x]) / 2e-5
        for s in steps
    ]
    expected = EPSILON * np.tanh(-rate * EPSILON * np.array(slope))
    np.testing.assert_allclose(memory.noise[0].ravel(), expected, atol=0.02 * EPSILON)


def test_what_is_optimised_is_clipped_as_what_is_protected():
    """Two steps, of which the second has no slope where the first led out of [0, 1]."""
    rate, w = 50.0, surrogate()[2]
    inputs = images(2).at[..., ::2, :, :].set(jnp.array([0.01, 0.99])[:, None, None, None])
    memory = make(tx=optax.sgd(rate), over="own", num_steps=2).fit(KEY, {"inputs": inputs})
    x = np.asarray(inputs, np.float64).reshape(2, -1)
    for row, number in enumerate(memory.cluster):
        goal, free = x[1 - row] @ w, np.zeros(x.shape[1])
        loss = lambda free: divergence(np.clip(x[row] + EPSILON * np.tanh(free), 0, 1), goal, w)  # noqa: B023
        for _ in range(2):
            steps = 1e-6 * np.eye(len(free))
            free = free - rate * np.array([loss(free + s) - loss(free - s) for s in steps]) / 2e-6
        found = np.asarray(memory.noise[number]).ravel()
        assert ((x[row] + found < 0) | (x[row] + found > 1)).any()
        np.testing.assert_allclose(found, EPSILON * np.tanh(free), atol=2e-4)


class Drawn(nn.Module):
    """What it draws are its parameters, from 0."""

    @nn.compact
    def __call__(self, inputs, train=False):
        return self.param("drawn", nn.initializers.zeros, inputs.shape)


@pytest.mark.parametrize(("mode", "rate"), [("direct", 0.05), ("generator", 1e-4)])
def test_the_default_is_adam_of_a_rate_for_each_mode(mode, rate):
    """Whose first step is the rate in each direction, whatever the slope."""
    memory = make(mode=mode, generator=Drawn()).fit(KEY, {"inputs": images()})
    np.testing.assert_allclose(np.abs(memory.noise), EPSILON * rate, rtol=2e-3)


def test_clusters_are_the_best_of_all_ways_to_split():
    task, variables, w = surrogate()
    inputs = jnp.asarray(np.random.default_rng(4).uniform(size=(6, SIDE, SIDE, 1)), jnp.float32)
    method = protection.clusters(task, variables, num_clusters=2, mode="random")
    memory = method.fit(KEY, {"inputs": inputs})
    features = np.asarray(inputs, np.float64).reshape(6, -1) @ w

    def inertia(labels):
        parts = (features[np.asarray(labels) == c] for c in (0, 1))
        return sum(((part - part.mean(0)) ** 2).sum() for part in parts)

    ways = [way for way in itertools.product((0, 1), repeat=6) if len(set(way)) == 2]
    np.testing.assert_allclose(inertia(memory.cluster), min(map(inertia, ways)), rtol=1e-5)
    for number in (0, 1):
        own = features[np.asarray(memory.cluster) == number].mean(0)
        np.testing.assert_allclose(memory.centres[number], own, rtol=1e-4)


def test_images_get_the_noise_of_their_cluster_or_of_the_nearest_centre():
    method = make(mode="random")
    data = {"inputs": images()}
    memory = method.fit(KEY, data)
    values = np.unique(np.abs(memory.noise))
    np.testing.assert_allclose(values, EPSILON, rtol=1e-6)
    protected = method.apply(memory, data)["inputs"]
    expected = np.asarray(images()) + np.asarray(memory.noise)[np.asarray(memory.cluster)]
    np.testing.assert_allclose(protected, expected, rtol=1e-6)
    own = method.apply(memory, data | {"cluster": 1 - memory.cluster})["inputs"]
    expected = np.asarray(images()) + np.asarray(memory.noise)[1 - np.asarray(memory.cluster)]
    np.testing.assert_allclose(own, expected, rtol=1e-6)
    bright = method.apply(memory, {"inputs": jnp.clip(images() + 0.55, 0, 1)})["inputs"]
    assert float(bright.max()) == 1.0 and method.needs == frozenset()
    other = make(mode="random").fit(jax.random.key(1), data)
    assert not np.array_equal(other.noise, memory.noise)


class Tiny(nn.Module):
    """A generator with batch norm, and values far outside of [-1, 1] but for the end."""

    @nn.compact
    def __call__(self, inputs, train=False):
        x = nn.BatchNorm(not train)(inputs)
        return jnp.tanh(3 * nn.Dense(1)(x))


def test_a_generator_draws_the_noise_within_the_budget_and_learns():
    data = {"inputs": images()}
    w = surrogate()[2]

    def reached(**options):
        method = make(mode="generator", generator=Tiny(), over="own", **options)
        memory = method.fit(KEY, data)
        assert (np.abs(memory.noise) <= EPSILON + 1e-7).all()
        x = np.asarray(method.apply(memory, data)["inputs"], np.float64).reshape(12, -1)
        goals = np.asarray(memory.centres, np.float64)[1 - np.asarray(memory.cluster)]
        return np.mean([divergence(row, goal, w) for row, goal in zip(x, goals, strict=True)])

    slow, fast = (reached(tx=optax.adam(rate), num_steps=60) for rate in (1e-9, 0.05))
    assert fast < 0.9 * slow


def test_direct_noise_beats_random_noise_of_the_same_budget():
    data, w = {"inputs": images()}, surrogate()[2]

    def reached(**options):
        method = make(**options)
        memory = method.fit(KEY, data)
        x = np.asarray(method.apply(memory, data)["inputs"], np.float64).reshape(12, -1)
        goals = np.asarray(memory.centres, np.float64)[1 - np.asarray(memory.cluster)]
        return np.mean([divergence(row, goal, w) for row, goal in zip(x, goals, strict=True)])

    clean = np.mean(
        [
            divergence(x, y @ w, w)
            for x, y in itertools.permutations(np.asarray(images()[:2]).reshape(2, -1), 2)
        ]
    )
    direct, random = reached(num_steps=100, over="own"), reached(mode="random")
    assert direct < 0.6 * clean and direct < 0.6 * random, (direct, random, clean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 1}, "num_clusters must be >= 2, got 1"),
        ({"num_clusters": 13}, "num_clusters must be at most the 12 images, got 13"),
        ({"epsilon": 0.0}, r"epsilon must lie in \(0, 1\]"),
        ({"mode": "clip"}, "mode must be one of"),
        ({"over": "others"}, "over must be one of"),
        ({"num_steps": 0}, "num_steps must be >= 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
    ],
)
def test_bad_values_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(mode=options.pop("mode", "random"), **options).fit(KEY, {"inputs": images()})


def test_bad_images_and_surrogates_are_named():
    with pytest.raises(ValueError, match="inputs must be pixels in"):
        make().fit(KEY, {"inputs": images() + 1})
    task, variables, _ = surrogate(nan=True)
    with pytest.raises(ValueError, match="features must be finite"):
        protection.clusters(task, variables, num_clusters=2).fit(KEY, {"inputs": images()})
    bare = task._replace(apply=lambda variables, batch, *_: ({"logits": batch["inputs"]}, {}))
    with pytest.raises(ValueError, match="the model must return"):
        protection.clusters(bare, {}, num_clusters=2).fit(KEY, {"inputs": images()})


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 10, 3)])
def test_the_residual_generator_keeps_the_size_of_images(shape):
    module = models.Generator(channels=2, width=4, num_blocks=1)
    image = jax.random.uniform(KEY, (1, *shape))
    variables = module.init(KEY, image)
    drawn, updated = module.apply(variables, image, train=True, mutable=["batch_stats"])
    assert drawn.shape == (1, *shape[:2], 2) and drawn.dtype == jnp.float32
    assert float(jnp.abs(drawn).max()) <= 1 and float(drawn.std()) > 0.01
    still = module.apply(variables, image)
    assert float(jnp.abs(still - drawn).max()) > 1e-3  # other statistics
    kernels = {k: v["kernel"].shape for k, v in variables["params"].items() if "kernel" in v}
    assert kernels["Conv_0"] == (7, 7, shape[-1], 4) and kernels["Conv_2"] == (3, 3, 8, 16)


def test_the_residual_generator_is_its_layers():
    """In NumPy, of an image that is large enough to be reflected, in training mode."""
    module = models.Generator(channels=2, width=2, num_blocks=2)
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(2, 8, 8, 1))
    shapes = jax.eval_shape(lambda: module.init(KEY, jnp.asarray(image, jnp.float32)))["params"]
    params = jax.tree.map(lambda x: rng.normal(0, 0.25, x.shape), shapes)
    numbers = {"Conv": itertools.count(), "BatchNorm": itertools.count()}
    own = lambda name: params[f"{name}_{next(numbers[name])}"]

    def correlated(x, kernel, stride=1):
        size = kernel.shape[0]
        out = np.zeros([*x.shape[:3], kernel.shape[-1]])[:, size - 1 :, size - 1 :]
        for i, j in itertools.product(range(size), repeat=2):
            high, wide = (i + out.shape[1], j + out.shape[2])
            out += x[:, i:high, j:wide] @ kernel[i, j]
        return out[:, ::stride, ::stride]

    def padded(x, before, behind, mode="constant"):
        return np.pad(x, [(0, 0), *[(before, behind)] * 2, (0, 0)], mode)

    def normed(x):
        of = own("BatchNorm")
        centred = x - x.mean((0, 1, 2))
        return of["scale"] * centred / np.sqrt(x.var((0, 1, 2)) + 1e-5) + of["bias"]

    relu = lambda x: np.maximum(x, 0)
    kept = lambda x, reach: correlated(padded(x, reach, reach, "reflect"), own("Conv")["kernel"])
    x = relu(normed(kept(image, 3)))
    for _ in range(2):  # halved: of an even side what is beyond it is behind
        x = relu(normed(correlated(padded(x, 0, 1), own("Conv")["kernel"], 2)))
    for _ in range(2):
        branch = relu(normed(kept(x, 1)))
        x = x + normed(kept(branch, 1))
    for number in range(2):  # doubled: zeros between, one more before than behind
        wide = np.zeros((2, 2 * x.shape[1] - 1, 2 * x.shape[2] - 1, x.shape[3]))
        wide[:, ::2, ::2] = x
        kernel = params[f"ConvTranspose_{number}"]["kernel"]
        x = relu(normed(correlated(padded(wide, 2, 1), kernel)))
    last = own("Conv")
    expected = np.tanh(correlated(padded(x, 3, 3, "reflect"), last["kernel"]) + last["bias"])
    variables = {
        "params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params),
        "batch_stats": {f"BatchNorm_{i}": {"mean": 0.0, "var": 1.0} for i in range(9)},
    }
    drawn, updated = module.apply(
        variables, jnp.asarray(image, jnp.float32), train=True, mutable=["batch_stats"]
    )
    first = correlated(padded(image, 3, 3, "reflect"), params["Conv_0"]["kernel"]).mean((0, 1, 2))
    mean = updated["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * first, rtol=1e-4)
    assert 0.05 < expected.std() and (np.abs(expected) < 0.99).mean() > 0.3
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    assert sum(len(own) for own in params.values()) == (8 + 1) + 2 * 9 + 2  # one bias, the last's
