"""Removals, against NumPy and against the pieces they are made of."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning import linear
from unlearnjax import models, tasks, training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.backdoor import removal


@pytest.fixture(scope="module")
def problem(digits):
    """A model of two layers that is half trained, and a broken copy that stands for an exposed."""
    task = problems.mlp(hidden=(6,))
    data = {k: jnp.asarray(v[:60]) for k, v in digits.items()}
    rows, options = jnp.arange(60), {"num_epochs": 20, "batch_size": 20}
    state, _ = training.train(task, optax.adam(0.03), data, rows, jax.random.key(0), **options)
    broken = jax.tree.map(
        lambda x: x + 0.3 * jnp.cos(17 * jnp.arange(x.size)).reshape(x.shape), state.variables
    )
    return task, state.variables, broken, data


def masks_by_hand(task, broken, data, rate, alpha, num_steps):
    """Projected full-batch descent of one mask per hidden unit, on its kernel's outputs."""
    kernel = broken["params"]["Dense_0"]["kernel"]

    def loss(mask):
        params = {
            **broken["params"],
            "Dense_0": {**broken["params"]["Dense_0"], "kernel": kernel * mask},
        }
        outputs, _ = task.apply({"params": params}, data, None, False)
        return alpha * task.loss(outputs, data).mean()

    mask = jnp.ones(6)
    for _ in range(num_steps):
        mask = jnp.clip(mask - rate * jax.grad(loss)(mask), 0, 1)
    return np.asarray(mask)


def accuracy(task, params, data):
    return float(training.evaluate(task, {"params": params}, data)["accuracy"].mean())


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({"thresholds": (0.5,)}, 0.5),
        ({"thresholds": (-0.1,)}, -0.1),
        ({"thresholds": (1.0,)}, 1.0),
        ({"max_drop": 1.0}, 0.9),
        ({"max_drop": 0.1, "alpha": 0.7}, None),
        ({"thresholds": (1.0, 2.0), "max_drop": 0.0}, -1),  # none is good: nothing is pruned
    ],
)
def test_masks_that_recover_the_exposed_model_prune_the_original(problem, options, chosen):
    task, original, broken, data = problem
    method = unlearning.recover_prune(optax.sgd(2.0), num_epochs=4, batch_size=60, **options)
    assert method.needs == {"retain", "inputs", "labels"}
    request = Request(None, data, original=original)
    updated, _ = jax.jit(method.update, static_argnums=1)(
        jax.random.key(0), task, broken, (), request
    )
    mask = masks_by_hand(task, broken, data, 2.0, options.get("alpha", 0.2), 4)
    assert mask.min() < 0.8 and len(set(mask.round(3))) > 2
    params = original["params"]

    def at(threshold):
        kept = params["Dense_0"]["kernel"] * (mask > threshold)
        return {**params, "Dense_0": {**params["Dense_0"], "kernel": kept}}

    if chosen is None:
        whole = accuracy(task, params, data)
        good = [
            t
            for t in removal.THRESHOLDS
            if accuracy(task, at(t), data) >= whole - options["max_drop"] - 1e-6
        ]
        chosen = max(good, default=-1)
    problems.assert_trees_close(updated["params"], at(chosen), atol=1e-6)
    if chosen < 0:
        problems.assert_trees_equal(updated["params"], params)


def test_one_threshold_alone_is_taken_as_it_is(problem):
    task, original, broken, data = problem
    method = unlearning.recover_prune(
        optax.sgd(0.1), num_epochs=1, batch_size=60, thresholds=(1.0,), max_drop=0.0
    )
    updated, _ = method.update(
        jax.random.key(0), task, broken, (), Request(None, data, original=original)
    )
    assert (updated["params"]["Dense_0"]["kernel"] == 0).all()


def counted(rate):
    """Steps of the same size whatever the gradient, so that a mask tells how many there were."""
    return optax.stateless(lambda updates, _: jax.tree.map(lambda x: -rate + 0 * x, updates))


def test_masks_are_trained_in_batches(problem):
    """Sixty images in batches of 20, twice: six steps from 1 down, which two thresholds bracket."""
    task, original, broken, data = problem
    options = {"num_epochs": 2, "batch_size": 20}
    for threshold, left in ((0.35, 1), (0.45, 0)):
        method = unlearning.recover_prune(counted(0.1), thresholds=(threshold,), **options)
        updated, _ = method.update(
            jax.random.key(0), task, broken, (), Request(None, data, original=original)
        )
        kernel = updated["params"]["Dense_0"]["kernel"]
        np.testing.assert_array_equal(kernel, left * original["params"]["Dense_0"]["kernel"])


ALIKE = (0.0, 0.0, 0.0, 0.4, 0.5, 0.0)


@pytest.mark.parametrize(
    ("options", "masks", "gone"),
    [
        ({}, (0.1, 0.2, 0.3, 0.4, 0.5, 0.05), [0, 5]),
        ({"max_drop": 0.0}, (0.1, 0.2, 0.3, 0.4, 0.5, 0.05), [5]),
        # One after another, of shares of the six: a half is more than may be lost.
        ({"by": "number"}, (0.1, 0.2, 0.3, 0.4, 0.5, 0.05), [0, 5]),
        ({}, ALIKE, []),  # all four or none
        ({"by": "number"}, ALIKE, [0]),
        ({"by": "number", "thresholds": (2 / 6,)}, ALIKE, [0, 1]),
        ({}, (np.nan,) * 6, []),
    ],
)
def test_what_may_be_lost_is_a_twentieth_and_of_nothing_rounding_alone(options, masks, gone):
    """Each unit tells a class of its own; of 60 images two are of unit 0, two of 1, none of 5."""
    unit = np.repeat(np.arange(5), [2, 2, 12, 20, 24])
    task = problems.mlp(hidden=(6,))
    data = {"inputs": jnp.asarray(np.eye(64)[unit].reshape(-1, 8, 8, 1), jnp.float32)}
    data["targets"] = jnp.asarray(unit + 1)  # where nothing is told it is 0
    params = {
        "Dense_0": {"kernel": jnp.eye(64, 6), "bias": jnp.zeros(6)},
        "Dense_1": {"kernel": jnp.eye(6, 10, 1), "bias": jnp.zeros(10)},
    }
    masks = jnp.array(masks)
    tx = optax.stateless(lambda updates, params: jax.tree.map(lambda x: masks - x, params))
    method = unlearning.recover_prune(tx, num_epochs=1, batch_size=60, **options)
    given = {"params": params}
    updated, _ = method.update(jax.random.key(0), task, given, (), Request(None, data))
    expected = np.eye(64, 6)
    expected[:, gone] = 0
    np.testing.assert_array_equal(updated["params"]["Dense_0"]["kernel"], expected)
    assert accuracy(task, params, data) == 1


def test_masks_are_trained_by_statistics_of_batches(digits):
    """Running ones that are far off leave no slope; a mask that has one falls to 0.8 in a step."""
    task = problems.linen(models.ConvNet(10, channels=(4,), hidden=5, norm="batch"))
    data = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    given = problems.init(task, digits)
    far = jax.tree.map(lambda x: x + 1e4, given["batch_stats"])
    fall = optax.stateless(lambda updates, _: jax.tree.map(lambda x: -0.2 * (x != 0), updates))
    method = unlearning.recover_prune(fall, num_epochs=1, batch_size=20, thresholds=(0.9,))
    updated, _ = method.update(
        jax.random.key(0), task, given | {"batch_stats": far}, (), Request(None, data)
    )
    assert (updated["params"]["BatchNorm_0"]["scale"] == 0).all()


def test_of_a_normalised_model_the_scales_have_masks(digits):
    task = problems.linen(models.ConvNet(10, channels=(4,), hidden=5, norm="batch"))
    data = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    given = problems.init(task, digits)
    method = unlearning.recover_prune(
        optax.sgd(0.1), num_epochs=1, batch_size=20, thresholds=(1.0,)
    )
    updated, _ = method.update(jax.random.key(0), task, given, (), Request(None, data))
    assert (updated["params"]["BatchNorm_0"]["scale"] == 0).all()
    expected = {**given["params"]}
    expected["BatchNorm_0"] = {**given["params"]["BatchNorm_0"], "scale": jnp.zeros(4)}
    problems.assert_trees_equal(updated["params"], expected)
    # The statistics that recovering moves are the exposed model's, not the original's.
    problems.assert_trees_equal(updated["batch_stats"], given["batch_stats"])
    dense = unlearning.recover_prune(
        optax.sgd(0.1), num_epochs=1, batch_size=20, thresholds=(1.0,), where=["Dense_0.bias"]
    )
    updated, _ = dense.update(jax.random.key(0), task, given, (), Request(None, data))
    problems.assert_trees_equal(updated["params"]["BatchNorm_0"], given["params"]["BatchNorm_0"])


def test_rnp_is_unlearning_then_recovery_on_the_part_that_is_clean(problem):
    task, original, _, data = problem
    whole = unlearning.rnp(
        optax.sgd(1.0), ascent_rate=0.3, ascent_epochs=5, stop_accuracy=0.4, num_epochs=2,
        batch_size=20, alpha=0.3, thresholds=(0.7,), clean="validation",
    )  # fmt: skip
    assert whole.needs == {"validation", "inputs", "labels"}
    forget = {k: v[:3] for k, v in data.items()}
    request = Request(forget, forget, data)
    found, _ = whole.update(jax.random.key(1), task, original, ((), ()), request)
    exposure = unlearning.clean_unlearning(
        optax.sgd(0.3, momentum=0.9), num_epochs=5, batch_size=20, stop_accuracy=0.4, train=True
    )
    pruning = unlearning.recover_prune(
        optax.sgd(1.0), num_epochs=2, batch_size=20, alpha=0.3, thresholds=(0.7,)
    )
    pair = unlearning.chain(exposure, pruning)
    expected, _ = pair.update(jax.random.key(1), task, original, ((), ()), Request(data, data))
    problems.assert_trees_equal(found, expected)
    zeros = np.asarray(found["params"]["Dense_0"]["kernel"] == 0).all(0)
    assert 0 < zeros.sum() < 6


def test_a_share_of_the_images_carries_the_trigger_with_true_labels():
    request, given, _ = linear.problem(num_retain=10)
    stamp = lambda inputs: inputs + 5.0
    method = unlearning.trigger_unlearning(
        optax.sgd(0.5), stamp, share=0.3, num_epochs=2, batch_size=100
    )
    assert method.needs == {"retain", "inputs", "labels"}
    found = linear.weights(method.update(jax.random.key(0), linear.TASK, given, (), request)[0])

    def fitted(rows):
        inputs = request.retain["inputs"]
        stamped = {**request.retain, "inputs": inputs.at[rows].set(stamp(inputs[rows]))}
        w = linear.weights(given)
        for _ in range(2):
            w = w - 0.5 * linear.cross_entropy_slopes(w, stamped).mean(0)
        return w

    import itertools

    apart = [
        np.abs(fitted(jnp.array(rows)) - found).max()
        for rows in itertools.combinations(range(10), 3)
    ]
    assert min(apart) < 1e-4 and sorted(apart)[1] > 1e-3
    other = method.update(jax.random.key(1), linear.TASK, given, (), request)[0]
    assert not np.allclose(linear.weights(other), found)
    none = unlearning.trigger_unlearning(optax.sgd(0.5), stamp, share=0.0, num_epochs=2)
    plain = unlearning.finetune(optax.sgd(0.5), num_epochs=2)
    a, b = (m.update(jax.random.key(0), linear.TASK, given, (), request)[0] for m in (none, plain))
    np.testing.assert_allclose(linear.weights(a), linear.weights(b), rtol=1e-5)


def test_a_part_takes_the_place_of_both_sets():
    seen = {}

    def update(rng, task, variables, memory, request):
        seen.update(forget=request.forget, retain=request.retain)
        return variables, memory

    base = unlearning.finetune(optax.sgd(0.1))._replace(
        update=update, needs=frozenset({"forget", "retain", "labels"})
    )
    method = unlearning.on_part(base, "validation")
    assert method.needs == {"validation", "labels"}
    method.update(None, None, {}, (), Request("f", "r", "v"))
    assert seen == {"forget": "v", "retain": "v"}


def test_bad_values_are_refused():
    tx = optax.sgd(0.1)
    for make, message in (
        (lambda: unlearning.recover_prune(tx, thresholds=(0.5, 0.5)), "thresholds must rise"),
        (lambda: unlearning.recover_prune(tx, thresholds=()), "thresholds must rise"),
        (lambda: unlearning.recover_prune(tx, alpha=-1.0), "alpha must be >= 0"),
        (lambda: unlearning.recover_prune(tx, max_drop=-0.1), "max_drop must be >= 0"),
        (lambda: unlearning.rnp(tx, ascent_rate=0.0), "ascent_rate must be > 0"),
        (lambda: unlearning.rnp(tx, clean="test"), "part must be one of"),
        (lambda: unlearning.trigger_unlearning(tx, abs, share=1.5), "share must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_defaults_are_those_published():
    pruning = {"num_epochs": 20, "batch_size": 128, "alpha": 0.2, "max_drop": 0.05}
    ascent = {"ascent_rate": 0.01, "ascent_epochs": 20, "stop_accuracy": 0.2}
    for make, values in (
        (unlearning.recover_prune, pruning),
        (unlearning.rnp, pruning | ascent),
        (unlearning.trigger_unlearning, {"share": 0.2, "num_epochs": 1}),
    ):
        parameters = inspect.signature(make).parameters
        assert {name: parameters[name].default for name in values} == values


def test_thresholds_are_those_published():
    np.testing.assert_allclose(removal.THRESHOLDS, np.arange(0, 0.91, 0.05), atol=1e-9)


def test_masks_are_as_many_as_channels(problem):
    task, original, _, _ = problem
    masked = tasks.channel_masks(task, ["Dense_0.kernel"])
    start = training.init_variables(
        masked, {"inputs": jnp.ones((1, 8, 8, 1))}, jax.random.key(0), tasks.as_base(original)
    )
    assert start["params"]["Dense_0"]["kernel"].shape == (6,)
