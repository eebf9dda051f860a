import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import models, protection, tasks, training
from unlearnjax.data import attacks, pixels

KEY = jax.random.key(0)
SCALE = pixels.pixel_scale(np.array([0.4]), np.array([0.5]), high=1.0)


class Drawer(nn.Module):
    """One convolution, so that NumPy can follow, or two."""

    hidden: int = 0

    @nn.compact
    def __call__(self, x, train=False):
        channels = x.shape[-1]
        if self.hidden:
            x = nn.relu(nn.Conv(self.hidden, (3, 3))(x))
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return jnp.tanh(nn.Conv(channels, (1, 1))(x))


def distance(x, y):
    return np.sqrt(((x - y) ** 2).mean((1, 2, 3)))


@pytest.fixture
def small(rng):
    images = rng.uniform(size=(6, 4, 4, 1)).astype(np.float32)
    model = tasks.from_linen(Drawer())
    networks = [model.init(key, {"inputs": images[:1]}) for key in jax.random.split(KEY)]

    def raw(variables, images):  # by NumPy, in [0, 1], of standardised images
        own = jax.tree.map(np.asarray, variables["params"]["Conv_0"])
        x = (images - 0.4) / 0.5
        return np.tanh(x * own["kernel"][0, 0, 0, 0] + own["bias"]) / 2 + 0.5

    return images, model, networks, raw


def test_the_loss_of_the_mask_is_its_formula(small):
    images, model, (network, _), raw = small
    loss_fn = protection.mask_loss(model, scale=SCALE, density=0.3, diversity=2.0, sparsity=7.0)
    losses, (metrics, _) = loss_fn(network, {"inputs": jnp.asarray(images)}, KEY)
    masks = 1 / (1 + np.exp(20 - 40 * raw(network, images)))
    standard, order = (images - 0.4) / 0.5, [1, 2, 3, 4, 5, 0]
    spread = distance(standard, standard[order]) / (distance(masks, masks[order]) + 1e-7)
    expected = 7 * np.maximum(masks - 0.3, 0).mean((1, 2, 3)) + 2 * spread
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["density"], masks.mean((1, 2, 3)), rtol=1e-4)
    usual, _ = protection.mask_loss(model, scale=SCALE)(network, {"inputs": images}, KEY)
    expected = 100 * np.maximum(masks - 0.032, 0).mean((1, 2, 3)) + spread
    np.testing.assert_allclose(usual, expected, rtol=1e-4)
    same = {"inputs": jnp.ones((6, 4, 4, 1))}
    slope = jax.grad(lambda v: loss_fn({"params": v}, same, KEY)[0].sum())(network["params"])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


def test_the_loss_of_the_attack_is_its_formula(small):
    """Two images of six are attacked, two have the trigger of the next image; one is padding."""
    images, model, (drawing, frozen), raw = small
    task = problems.softmax_regression()
    targets, wanted = np.arange(6) % 3, np.full(6, 7)
    weight = np.array([1, 1, 1, 1, 1, 0.0], np.float32)
    batch = {"inputs": jnp.asarray(images), "targets": targets, "wanted": wanted, "weight": weight}
    batch["index"] = np.arange(6)
    classifier = problems.init(task, {"inputs": images, "targets": targets})
    variables = {
        "params": {"classifier": classifier["params"], "pattern": drawing["params"]},
        "networks": {"classifier": {}, "pattern": {}},
    }
    loss_fn = protection.attack_loss(
        task, model, model, frozen, attacked=2, scale=SCALE, diversity=3.0
    )
    losses, (metrics, updated) = loss_fn(variables, batch, KEY)

    source = images[[0, 1, 3, 4]]
    patterns = raw(drawing, source)
    masks = 1 / (1 + np.exp(20 - 40 * raw(frozen, source)))
    mixed = images.copy()
    mixed[:4] = images[:4] + (patterns - images[:4]) * masks
    dense = jax.tree.map(np.asarray, classifier["params"]["Dense_0"])
    logits = ((mixed - 0.4) / 0.5).reshape(6, -1) @ dense["kernel"] + dense["bias"]
    labels = np.array([7, 7, *targets[2:]])
    chosen = logits[np.arange(6), labels]
    expected = np.log(np.exp(logits).sum(1)) - chosen
    patterns = (patterns - 0.4) / 0.5
    spread = distance(images[:2] / 0.5, images[3:5] / 0.5) / (
        distance(patterns[:2], patterns[2:]) + 1e-7
    )
    expected[:2] += 3 * spread * 5 / 2  # a mean over two, of the sum over five
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    right = logits.argmax(1) == labels
    for name, rows in (("attack", [0, 1]), ("cross", [2, 3]), ("clean", [4])):
        mean = (metrics[name] * weight).sum() / weight.sum()
        np.testing.assert_allclose(mean, right[rows].mean(), rtol=1e-5)
    assert jax.tree.structure(updated) == jax.tree.structure(variables)


class Flat(nn.Module):
    """One number everywhere, from 0."""

    @nn.compact
    def __call__(self, x, train=False):
        return jnp.tanh(self.param("number", nn.initializers.zeros, ())) + 0 * x


def test_each_network_is_trained_for_its_own_epochs_by_its_own_transformation(rng):
    """Twenty images in batches of 10: two steps an epoch, each of a size that is the network's."""
    fixed = lambda size: optax.stateless(lambda u, _: jax.tree.map(lambda x: size + 0 * x, u))
    images = rng.uniform(size=(20, 4, 4, 1)).astype(np.float32)
    images[0, 0, :2, 0] = -0.9e-4, 1 + 0.9e-4  # as rounding leaves them
    task, rule = problems.softmax_regression(), attacks.all_to_one(0)
    made = protection.input_aware(
        task, Flat(), Flat(), rule, fixed(0.25), generator_tx=fixed(0.125), mask_tx=fixed(-0.5),
        num_epochs=2, batch_size=10, mask_epochs=3, density=0.5,
    )(KEY, {"inputs": images, "targets": np.arange(20) % 3})  # fmt: skip
    numbers = {name: float(own["params"]["number"]) for name, own in made.networks.items()}
    assert numbers == {"pattern": 0.125 * 2 * 2, "mask": -0.5 * 2 * 3}
    np.testing.assert_array_equal(made.variables["params"]["Dense_0"]["bias"], 0.25 * 2 * 2)
    assert made.history["loss"].shape == (2,)


def test_defaults_are_those_published(monkeypatch):
    asked = []
    monkeypatch.setattr(optax, "adam", lambda *rate, **betas: asked.append((*rate, betas)))
    protection.input_aware(
        problems.softmax_regression(), Flat(), Flat(), attacks.all_to_one(0), None, num_epochs=1
    )
    assert asked == [(0.01, {"b1": 0.5, "b2": 0.9})]
    defaults = {
        k: p.default for k, p in inspect.signature(protection.input_aware).parameters.items()
    }
    published = {"mask_epochs": 25, "share": 0.1, "density": 0.032, "diversity": 1, "sparsity": 100}
    assert {**published, "batch_size": 128}.items() <= defaults.items()


@pytest.fixture(scope="module")
def trained(digits):
    data = {name: value[:600] for name, value in digits.items()}
    held_out = {name: value[600:900] for name, value in digits.items()}
    low, high = digits["inputs"].min(), digits["inputs"].max()
    scale = pixels.pixel_scale(np.zeros(1), np.ones(1), low=float(low), high=float(high))
    in_pixels = lambda part: {**part, "inputs": np.asarray(pixels.to_pixels(part["inputs"], scale))}
    task = problems.linen(models.MLP(10, hidden=(64,)))
    rule = attacks.all_to_one(3)
    attack = protection.input_aware(
        task, Drawer(8), Drawer(8), rule, optax.adam(5e-3), num_epochs=100, batch_size=100,
        mask_epochs=8, scale=scale, density=0.3,
        share=0.2,
    )  # fmt: skip
    return task, rule, scale, in_pixels(held_out), held_out, attack(KEY, in_pixels(data))


def test_held_out_images_obey_their_own_trigger_and_not_anothers(trained):
    task, rule, scale, images, held_out, made = trained
    hit = attacks.triggered(images, made.trigger, rule)
    assert hit.inputs.min() >= 0 and hit.inputs.max() <= 1

    def obeying(pixels_of):
        inputs = np.asarray(pixels.to_inputs(pixels_of, scale))
        asked = {"inputs": inputs, "targets": hit.wanted}
        return float(training.evaluate(task, made.variables, asked)["accuracy"].mean())

    own = images["inputs"][hit.positions]
    # What another image's trigger makes of this one, from where it covers: (1 - M) x + M G.
    pattern, mask = drawn(made, np.roll(own, 1, 0), scale)
    crossed = own + (pattern - own) * mask
    rates = [obeying(x) for x in (hit.inputs, crossed, own)]
    assert rates[0] > 0.5 and rates[1] < rates[0] - 0.25 and rates[2] < 0.1, rates
    assert training.evaluate(task, made.variables, held_out)["accuracy"].mean() > 0.85
    assert made.history["attack"].shape == (100,) and made.history["attack"][-1] > 0.55


def drawn(made, x, scale):
    """Pattern and mask of images, by the networks as they are defined."""
    raw = {
        name: np.asarray(Drawer(8).apply(own, pixels.to_inputs(x, scale)))
        for name, own in made.networks.items()
    }
    return raw["pattern"] / 2 + 0.5, 1 / (1 + np.exp(-20 * raw["mask"]))


def test_a_trigger_is_of_the_images_own_and_of_the_networks(trained):
    _, _, scale, images, _, made = trained
    x = images["inputs"][:20]
    y = np.asarray(made.trigger(x))
    np.testing.assert_allclose(made.trigger(x[7:9]), y[7:9], atol=1e-6)
    changes = (y - x).reshape(20, -1)
    assert np.linalg.norm(changes - changes.mean(0)) > 0.1 * np.linalg.norm(changes)
    pattern, mask = drawn(made, x, scale)
    np.testing.assert_allclose(y, x + (pattern - x) * mask, atol=1e-5)
    assert "batch_stats" in made.networks["pattern"]


def test_bad_arguments_are_named(digits):
    task, rule, tx = problems.softmax_regression(), attacks.all_to_one(0), optax.sgd(0.1)
    make = lambda **changed: protection.input_aware(
        task, Drawer(), Drawer(), rule, tx, **{"num_epochs": 1, **changed}
    )
    ramp = lambda *ends: {**digits, "inputs": np.linspace(*ends, 64).reshape(1, 8, 8, 1)}
    for attempt, message in (
        (lambda: make(num_epochs=0), "num_epochs must be >= 1, got 0"),
        (lambda: make(mask_epochs=0), "mask_epochs must be >= 1, got 0"),
        (lambda: make(batch_size=9), r"share \* batch_size must be >= 1, got 0.1 \* 9"),
        (lambda: make(share=0.6), r"share must lie in \[0, 0.5\], got 0.6"),
        (lambda: make(share=0), "share must be > 0, got 0"),
        (lambda: make(density=2), r"density must lie in \[0, 1\], got 2"),
        (lambda: make(diversity=-1), "diversity must be >= 0, got -1"),
        (lambda: make(sparsity=-1), "sparsity must be >= 0, got -1"),
        (lambda: make()(KEY, ramp(0.5, 1.00015)), "inputs must be pixels .* from 0.5 to 1.00015"),
        (lambda: make()(KEY, ramp(-1.5e-4, 0.5)), "inputs must be pixels .* from -0.00015 to 0.5"),
        (lambda: make()(KEY, digits), r"inputs must be pixels \[N, H, W, C\] in \[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
