"""Exposures, against NumPy and against what they are made of."""

import functools
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
from unlearnjax.unlearning.backdoor import exposure

RATE, DECAY = 0.5, 0.1
# With fresh variables, whose shapes an edit of them is made of.
TASK = linear.TASK._replace(
    init=lambda rng, batch: {"params": {"w": jnp.zeros((linear.FEATURES, linear.CLASSES))}}
)


def part(size=8):
    request, given, _ = linear.problem(num_forget=size)
    return Request(request.forget), given


@pytest.mark.parametrize(
    ("options", "decay"), [({"weight_decay": 0.0}, 0), ({"weight_decay": DECAY}, DECAY), ({}, 5e-4)]
)
def test_clean_unlearning_is_unbounded_ascent_with_decayed_weights(options, decay):
    request, given = part()
    w = linear.weights(given)
    method = unlearning.clean_unlearning(
        optax.sgd(RATE), num_epochs=3, batch_size=100, stop_accuracy=None, **options
    )
    assert method.needs == {"forget", "inputs", "labels"}
    updated, memory = method.update(jax.random.key(0), linear.TASK, given, (), request)
    for _ in range(3):
        slope = -linear.cross_entropy_slopes(w, request.forget).mean(0) + decay * w
        w = w - RATE * slope
    np.testing.assert_allclose(linear.weights(updated), w, rtol=1e-4)
    assert memory == ()


def test_it_stops_at_the_first_epoch_whose_accuracy_is_gone():
    request, given = part(24)
    x, y = (np.asarray(request.forget[k]) for k in ("inputs", "targets"))
    accuracy = lambda w: (np.asarray(x @ w).argmax(1) == y).mean()
    path = [linear.weights(given)]
    for _ in range(30):
        path.append(path[-1] + 0.1 * linear.cross_entropy_slopes(path[-1], request.forget).mean(0))
    threshold = sorted({accuracy(w) for w in path})[1]
    first = next(i for i, w in enumerate(path) if accuracy(w) <= threshold)
    assert 1 < first < 20
    run = lambda stop: unlearning.clean_unlearning(
        optax.sgd(0.1), num_epochs=30, batch_size=100, stop_accuracy=stop, weight_decay=0.0
    ).update(jax.random.key(0), linear.TASK, given, (), request)
    stopped, trace = run(threshold)
    np.testing.assert_allclose(linear.weights(stopped), path[first], rtol=1e-4)
    curve = np.asarray(trace.curves["forget_accuracy"])
    np.testing.assert_allclose(curve[first:], accuracy(path[first]), atol=1e-6)
    assert (curve[: first - 1] > threshold).all()
    # A model without accuracy stays as it is.
    still, _ = run(1.0)
    problems.assert_trees_equal(still["params"], given["params"])


def test_what_is_watched_is_in_the_trace():
    request, given = part()
    watch = lambda task, variables, request: {"norm": optax.tree.norm(variables["params"])}
    method = unlearning.clean_unlearning(
        optax.sgd(RATE), num_epochs=2, batch_size=100, stop_accuracy=None, watch=watch
    )
    updated, trace = method.update(jax.random.key(0), linear.TASK, given, (), request)
    assert set(trace.curves) == {"norm"} and trace.curves["norm"].shape == (2,)
    np.testing.assert_allclose(
        trace.curves["norm"][-1], np.linalg.norm(linear.weights(updated)), rtol=1e-5
    )


def test_batch_statistics_move_in_training_mode_alone(digits):
    task = problems.linen(models.ConvNet(10, channels=(2,), hidden=4, norm="batch"))
    data = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    given = problems.init(task, digits)
    for train in (False, True):
        clean = functools.partial(unlearning.clean_unlearning, stop_accuracy=None)
        for make in (clean, unlearning.confusion_finetune):
            method = make(optax.sgd(0.0), num_epochs=1, batch_size=20, train=train)
            updated, _ = method.update(jax.random.key(0), task, given, (), Request(data))
            moved = optax.tree.norm(optax.tree.sub(updated["batch_stats"], given["batch_stats"]))
            assert (moved > 0) == train


def test_confusion_fits_labels_that_are_drawn_in_every_step():
    """The mean of many draws is descent to the uniform distribution; no two seeds are alike."""
    request, given = part()
    w = linear.weights(given)

    def run(seed, **options):
        method = unlearning.confusion_finetune(
            optax.sgd(RATE), num_epochs=1, batch_size=100, **{"weight_decay": 0.0, **options}
        )
        return linear.weights(
            method.update(jax.random.key(seed), linear.TASK, given, (), request)[0]
        )

    moves = np.stack([run(seed) for seed in range(60)]) - w
    slopes = [
        linear.cross_entropy_slopes(w, request.forget, np.full(8, c)).mean(0) for c in range(3)
    ]
    spread = moves.std(0) / np.sqrt(len(moves))
    assert (np.abs(moves.mean(0) + RATE * np.mean(slopes, 0)) < 4 * spread + 1e-6).all()
    assert spread.min() > 0
    np.testing.assert_allclose(run(0, weight_decay=DECAY) - run(0), -RATE * DECAY * w, atol=1e-5)


@pytest.fixture(scope="module")
def convnet(digits):
    task = problems.linen(models.ConvNet(10, channels=(8,), hidden=6, norm="batch"))
    given = problems.init(task, digits)
    # A norm as trained: scales and biases of its own.
    own = {"scale": jnp.linspace(0.5, 1.5, 8), "bias": jnp.linspace(-0.5, 0.5, 8)}
    given = {**given, "params": {**given["params"], "BatchNorm_0": own}}
    return task, given, {k: jnp.asarray(v[:30]) for k, v in digits.items()}


@pytest.mark.parametrize("layer", ["Conv_0", "BatchNorm_0", "Dense_0", "Dense_1"])
def test_pruning_masks_the_channels_that_are_least_active(convnet, layer):
    task, given, data = convnet
    method = unlearning.activation_prune(layer, share=0.45)
    assert method.needs == {"forget", "inputs"}
    inputs = {"inputs": data["inputs"], "targets": data["targets"]}
    updated, _ = method.update(jax.random.key(0), task, given, (), Request(inputs))
    captured = tasks.capture(task, (layer,)).apply(given, inputs, None, False)[0]
    hidden = np.asarray(captured[f"hidden.{layer}"])
    mean = hidden.mean(tuple(range(hidden.ndim - 1)))
    mask = np.ones(mean.size)
    mask[np.argsort(mean)[: int(0.45 * mean.size)]] = 0
    assert 0 < mask.sum() < mask.size
    masked = tasks.edit(task, {layer: lambda h, batch: h * mask.astype(np.float32)})
    expected = training.outputs(masked, given, inputs)["logits"]
    np.testing.assert_allclose(
        training.outputs(task, updated, inputs)["logits"], expected, atol=1e-5
    )
    others = {k: v for k, v in updated["params"].items() if k != layer}
    problems.assert_trees_equal(others, {k: given["params"][k] for k in others})


def test_pruning_ignores_padding_and_nothing_is_pruned_by_no_share(convnet):
    task, given, data = convnet
    half = {**data, "weight": jnp.arange(30) < 5}
    method = unlearning.activation_prune("Dense_0", share=0.5)
    run = lambda data: method.update(jax.random.key(0), task, given, (), Request(data))[0]
    first = {k: v[:5] for k, v in data.items()}
    problems.assert_trees_equal(run(half), run(first))
    usual = unlearning.activation_prune("Dense_0")
    kept, _ = usual.update(jax.random.key(0), task, given, (), Request(data))
    silent = np.abs(kept["params"]["Dense_0"]["kernel"]).max(0) == 0
    assert silent.sum() == 3  # half of the six
    none = unlearning.activation_prune("Dense_0", share=0.1)
    kept, _ = none.update(jax.random.key(0), task, given, (), Request(data))
    problems.assert_trees_equal(kept, given)  # a tenth of six channels is none


def test_neurons_are_moved_by_relative_noise_that_raises_the_loss(convnet):
    task, given, data = convnet
    own = given["params"]["BatchNorm_0"]
    options = {"epsilon": 0.3, "step_size": 1.0}
    run = lambda method, seed=0: method.update(
        jax.random.key(seed), task, given, (), Request(data)
    )[0]
    updated = run(unlearning.neuron_perturbation(**options))
    loss = lambda variables: training.evaluate(task, variables, data)["loss"].mean()
    for name in ("scale", "bias"):
        noise = np.asarray(updated["params"]["BatchNorm_0"][name] / own[name] - 1)
        np.testing.assert_allclose(np.abs(noise), 0.3, atol=1e-5)
    assert loss(updated) > loss(given)
    others = {k: v for k, v in updated["params"].items() if k != "BatchNorm_0"}
    problems.assert_trees_equal(others, {k: given["params"][k] for k in others})
    problems.assert_trees_equal(updated["batch_stats"], given["batch_stats"])
    # The noise alone, where no step is taken: uniform in the box, of the key.
    still = [
        np.asarray(run(unlearning.neuron_perturbation(0.3, step_size=0.0), seed)["params"][
            "BatchNorm_0"]["scale"] / own["scale"] - 1)
        for seed in (0, 1)
    ]  # fmt: skip
    assert all(np.abs(x).max() < 0.3 and x.std() > 0.05 for x in still)
    assert not np.allclose(*still)
    problems.assert_trees_close(run(unlearning.neuron_perturbation(0.0)), given)


def test_the_ascent_starts_from_the_noise_and_takes_its_steps():
    """On softmax regression, where every channel is a column: signs of NumPy's gradient."""
    request, given = part()
    w = linear.weights(given)
    run = lambda **options: linear.weights(
        unlearning.neuron_perturbation(0.4, where=["w"], **options).update(
            jax.random.key(3), TASK, given, (), request
        )[0]
    )
    noise = (run(step_size=0.0) / w - 1)[0]
    for number in (1, 3):
        expected = noise.copy()
        for _ in range(number):
            slope = linear.cross_entropy_slopes(w * (1 + expected), request.forget).mean(0)
            expected = np.clip(expected + 0.15 * np.sign((slope * w).sum(0)), -0.4, 0.4)
        found = (run(step_size=0.15, num_steps=number) / w - 1)[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_without_norms_everything_is_perturbed():
    request, given = part()
    method = unlearning.neuron_perturbation(0.4)
    assert method.needs == {"forget", "inputs", "labels"}
    updated, _ = method.update(jax.random.key(0), TASK, given, (), request)
    assert not np.allclose(linear.weights(updated), linear.weights(given))
    params = {"bn1": {"scale": 1, "bias": 0}, "Dense_0": {"kernel": 1}}
    statistics = {"bn1": {"mean": 0, "var": 1}}  # whatever the layer is called
    found = exposure.of_norms({"params": params, "batch_stats": statistics})
    assert found == ["bn1.bias", "bn1.scale"] and exposure.of_norms({"params": params}) == []


def test_defaults_are_those_published():
    published = {
        unlearning.clean_unlearning: {"num_epochs": 20, "batch_size": 128, "stop_accuracy": 0.2},
        unlearning.confusion_finetune: {"num_epochs": 20, "weight_decay": 5e-4},
        unlearning.neuron_perturbation: {"epsilon": 0.4, "step_size": 0.2, "num_steps": 1},
    }
    for make, values in published.items():
        parameters = inspect.signature(make).parameters
        assert {name: parameters[name].default for name in values} == values


def test_bad_values_are_refused(convnet):
    tx = optax.sgd(0.1)
    for make, message in (
        (lambda: unlearning.clean_unlearning(tx, stop_accuracy=1.2), "stop_accuracy must lie"),
        (lambda: unlearning.clean_unlearning(tx, weight_decay=-1.0), "weight_decay must be >= 0"),
        (lambda: unlearning.confusion_finetune(tx, weight_decay=-1.0), "weight_decay must be >= 0"),
        (lambda: unlearning.activation_prune("Dense_0", share=2.0), "share must lie in"),
        (lambda: unlearning.activation_prune(""), "layer must be one name"),
        (lambda: unlearning.neuron_perturbation(-0.1), "epsilon must be >= 0"),
        (lambda: unlearning.neuron_perturbation(step_size=-1.0), "step_size must be >= 0"),
        (lambda: unlearning.neuron_perturbation(num_steps=0), "num_steps must be >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    task, given, data = convnet
    with pytest.raises(ValueError, match="where must name layers"):
        unlearning.activation_prune("Dense_7").update(
            jax.random.key(0), task, given, (), Request(data)
        )
