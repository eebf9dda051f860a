"""Random labels: which are drawn, when, and what every step does with them, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from jax.flatten_util import ravel_pytree

from tests import problems
from tests.unlearning import linear
from unlearnjax import curvature, tasks, unlearning
from unlearnjax.types import Request

RATE = 0.5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weighting": "part"},
        {"retain_weight": 0.3},
        {"weighting": "part", "retain_weight": 0.3},
        {"over": "alternate", "retain_weight": 0.3},
    ],
    ids=str,
)
def test_a_pass_is_the_stated_mean_over_both_sets(options):
    request, given, _ = linear.problem(num_forget=3, num_retain=9)
    labels = (request.forget["targets"] + 1) % linear.CLASSES
    method = unlearning.random_label(
        optax.sgd(RATE), num_epochs=1, batch_size=100, relabel=lambda *args: labels, **options
    )
    updated, _ = method.update(jax.random.key(0), linear.TASK, given, (), request)
    w, weight = linear.weights(given), options.get("retain_weight", 1.0)
    forget = linear.cross_entropy_slopes(w, request.forget, labels)
    retain = linear.cross_entropy_slopes(w, request.retain)
    if options.get("over") == "alternate":  # first a step on all of forget, then one on retain
        w = w - RATE * forget.mean(0)
        step = weight * linear.cross_entropy_slopes(w, request.retain).mean(0)
    elif options.get("weighting") == "part":
        step = forget.mean(0) + weight * retain.mean(0)
    else:
        step = (forget.sum(0) + weight * retain.sum(0)) / 12
    np.testing.assert_allclose(linear.weights(updated), w - RATE * step, atol=1e-5)


def histograms(num_epochs, **options):
    """Of the labels that 6,000 forgotten examples of class 0 get in each epoch.

    The model is a bias, so that a step at rate 1 is `histogram - probabilities`.
    """
    task = tasks.classification(
        tasks.Model(
            lambda rng, batch: {},
            lambda v, batch, rng, train: (
                {"logits": jnp.broadcast_to(v["params"], (len(batch["targets"]), 5))},
                v,
            ),
        )
    )
    forget = {"targets": jnp.zeros(6000, jnp.int32)}
    retain = {"targets": jnp.full(10, 4, jnp.int32)}
    found, before = [], np.zeros(5)
    for epochs in range(1, num_epochs + 1):
        method = unlearning.random_label(
            optax.sgd(1.0),
            num_epochs=epochs,
            batch_size=10_000,
            retain_weight=0.0,
            weighting="part",
            **options,
        )
        after, _ = method.update(
            jax.random.key(0), task, {"params": jnp.zeros(5)}, (), Request(forget, retain)
        )
        after = np.asarray(after["params"], np.float64)
        found.append(6000 * (after - before + scipy.special.softmax(before)))
        before = after
    return found


def test_labels_are_uniform_over_all_classes_and_drawn_anew_every_epoch():
    first, second = histograms(2)
    for counts in (first, second):
        np.testing.assert_allclose(counts, counts.round(), atol=0.05)
        assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert np.abs(first - second).max() > 1


def test_graves_labels_are_drawn_once_among_the_other_classes():
    first, second = histograms(2, relabel=unlearning.other_classes)
    assert abs(first[0]) < 0.05
    assert scipy.stats.chisquare(first[1:]).pvalue > 1e-3
    np.testing.assert_allclose(second, first, atol=0.05)


def test_retained_examples_keep_their_labels():
    request, given, _ = linear.problem()
    method = unlearning.random_label(optax.sgd(RATE), num_epochs=1, batch_size=100)
    # Forgotten examples at the origin pull at nothing, whatever their labels.
    forget = {**request.forget, "inputs": jnp.zeros_like(request.forget["inputs"])}
    updated, _ = method.update(
        jax.random.key(0), linear.TASK, given, (), Request(forget, request.retain)
    )
    w = linear.weights(given)
    step = linear.cross_entropy_slopes(w, request.retain).sum(0) / 12
    np.testing.assert_allclose(linear.weights(updated), w - RATE * step, atol=1e-5)


def test_the_student_runs_in_training_mode():
    request, given, _ = linear.problem()
    modes = []

    def apply(variables, batch, rng, train):
        modes.append(train)
        return linear.TASK.apply(variables, batch, rng, train)

    method = unlearning.random_label(optax.sgd(RATE), num_epochs=1)
    task = linear.TASK._replace(apply=apply)
    jax.eval_shape(lambda rng: method.update(rng, task, given, (), request), jax.random.key(0))
    assert True in modes


@pytest.fixture(scope="module")
def problem():
    data = problems.digits(300)
    task = problems.mlp((24,))
    mask = data["targets"] == 3
    forget, retain = ({k: jnp.asarray(v[m]) for k, v in data.items()} for m in (mask, ~mask))
    return task, problems.init(task, data), Request(forget, retain)


def update(problem, method):
    task, variables, request = problem
    return jax.jit(lambda rng: method.update(rng, task, variables, (), request)[0])(
        jax.random.key(0)
    )


def test_salun_with_everything_salient_is_random_labelling_and_else_keeps_bits(problem):
    options = {"num_epochs": 2, "batch_size": 50, "retain_weight": 0.5, "weighting": "part"}
    tx = optax.adamw(1e-3, weight_decay=0.1)
    everything = update(problem, unlearning.salun(tx, keep=1.0, **options))
    labelled = update(problem, unlearning.random_label(tx, **options))
    problems.assert_trees_close(everything, labelled, rtol=1e-5)
    part = update(problem, unlearning.salun(tx, keep=0.2, **options))
    before, after = (ravel_pytree(v["params"])[0] for v in (problem[1], part))
    moved = np.asarray(before != after)
    assert 0.15 < moved.mean() < 0.25  # ties at the threshold move, too
    gradient = curvature.mean_gradient(problem[0], problem[1], problem[2].forget)
    salient = np.abs(np.asarray(ravel_pytree(gradient)[0]))
    assert salient[moved].min() >= np.quantile(salient, 0.8) * 0.999
    assert salient[~moved].max() <= np.quantile(salient, 0.8) * 1.001


def test_half_of_the_weights_move_by_default(problem):
    part = update(problem, unlearning.salun(optax.adam(1e-3), num_epochs=1))
    before, after = (ravel_pytree(v["params"])[0] for v in (problem[1], part))
    assert 0.4 < np.asarray(before != after).mean() < 0.55


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: unlearning.salun(tx, keep=0.0), r"keep must lie in \(0, 1\], got 0.0"),
        (lambda tx: unlearning.salun(tx, keep=1.5), r"keep must lie in \(0, 1\], got 1.5"),
        (lambda tx: unlearning.random_label(tx, over="paired"), "over must be one of"),
        (lambda tx: unlearning.random_label(tx, weighting="all"), "weighting must be one of"),
        (lambda tx: unlearning.random_label(tx, retain_weight=-1.0), "retain_weight must be >= 0"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax.sgd(0.1))
