"""Every step of the teachers' methods against NumPy, worked out for softmax regression."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning import linear
from unlearnjax import training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning import distil

RATE = 0.5


def test_scrub_goes_away_on_forget_then_back_on_retain_with_every_coefficient():
    request, given, teacher = linear.problem()
    alpha, gamma, temperature = 0.3, 0.7, 2.0
    method = unlearning.scrub(
        optax.sgd(RATE),
        num_epochs=2,
        max_epochs=1,
        batch_size=100,
        alpha=alpha,
        gamma=gamma,
        temperature=temperature,
    )
    updated, _ = method.update(
        jax.random.key(0), linear.TASK, given, (), request._replace(original=teacher)
    )
    w, frozen = linear.weights(given), linear.weights(teacher)
    # The first epoch has a max pass, the second has not.
    for max_pass in (True, False):
        if max_pass:
            slopes = linear.divergence_slopes(w, frozen, request.forget, temperature)
            w = w + RATE * slopes.mean(0)
        apart = linear.divergence_slopes(w, frozen, request.retain, temperature).mean(0)
        w = w - RATE * (
            alpha * apart + gamma * linear.cross_entropy_slopes(w, request.retain).mean(0)
        )
    np.testing.assert_allclose(linear.weights(updated), w, atol=2e-5)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(linear.CLASSES)(
            nn.BatchNorm(use_running_average=not train, momentum=0.5)(x)
        )


def test_students_run_in_training_mode_and_teachers_do_not():
    """Running means, at a rate of 0, are those of the batches that a student saw, in order."""
    request, _, _ = linear.problem()
    task = problems.linen(Normed())
    variables = task.init(jax.random.key(0), request.forget)
    forget, retain = (np.asarray(p["inputs"]).mean(0) for p in (request.forget, request.retain))
    expected = {
        "scrub": 0.5 * (0.5 * forget) + 0.5 * retain,
        "bad_teacher": 0.5 * (3 * forget + 9 * retain) / 12,
    }
    options = {"num_epochs": 1, "batch_size": 100}
    methods = {
        "scrub": unlearning.scrub(optax.sgd(0.0), max_epochs=1, **options),
        "bad_teacher": unlearning.bad_teacher(optax.sgd(0.0), retain_fraction=1.0, **options),
    }
    for name, method in methods.items():
        updated, _ = method.update(jax.random.key(0), task, variables, (), request)
        mean = updated["batch_stats"]["BatchNorm_0"]["mean"]
        np.testing.assert_allclose(mean, expected[name], atol=1e-5)


@pytest.mark.parametrize("weighting", [None, "example", "part"])
def test_bad_teacher_weighs_every_example_alike_unless_parts_are_asked_for(weighting, monkeypatch):
    request, given, teacher = linear.problem()
    novice = {"params": {"w": -teacher["params"]["w"] / 2}}
    monkeypatch.setattr(distil, "incompetent_model", lambda *args: novice)
    method = unlearning.bad_teacher(
        optax.sgd(RATE),
        batch_size=100,
        retain_fraction=1.0,
        temperature=2.0,
        **({} if weighting is None else {"weighting": weighting}),
    )
    updated, _ = method.update(
        jax.random.key(0), linear.TASK, given, (), request._replace(original=teacher)
    )
    w = linear.weights(given)
    forget = linear.divergence_slopes(w, linear.weights(novice), request.forget, 2.0)
    retain = linear.divergence_slopes(w, linear.weights(teacher), request.retain, 2.0)
    step = (
        forget.mean(0) + retain.mean(0)
        if weighting == "part"
        else (forget.sum(0) + retain.sum(0)) / 12
    )
    np.testing.assert_allclose(linear.weights(updated), w - RATE * step, atol=1e-5)


def test_bad_teacher_takes_the_stated_share_of_the_retain_set(monkeypatch):
    """All retained examples are one and the same, so that only their number counts."""
    request, given, teacher = linear.problem(num_forget=3, num_retain=20)
    retain = {k: jnp.repeat(v[:1], 20, axis=0) for k, v in request.retain.items()}
    monkeypatch.setattr(distil, "incompetent_model", lambda *args: teacher)
    method = unlearning.bad_teacher(optax.sgd(RATE), batch_size=100, retain_fraction=0.25)
    updated, _ = method.update(
        jax.random.key(0), linear.TASK, given, (), Request(request.forget, retain, original=teacher)
    )
    w = linear.weights(given)
    forget = linear.divergence_slopes(w, linear.weights(teacher), request.forget)
    kept = linear.divergence_slopes(w, linear.weights(teacher), retain)[:5]
    step = (forget.sum(0) + kept.sum(0)) / 8
    np.testing.assert_allclose(linear.weights(updated), w - RATE * step, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 1), ({"batch_size": 4}, 3), ({"batch_size": 4, "num_epochs": 2}, 6)],
)
def test_bad_teacher_passes_once_over_three_tenths_of_the_retain_set(options, steps):
    """Of 3 and 20 examples; the transformation adds 1 at every step."""
    request, given, _ = linear.problem(num_forget=3, num_retain=20)
    task = linear.TASK._replace(init=lambda rng, batch: given)
    one = optax.stateless(lambda gradients, params: jax.tree.map(jnp.ones_like, gradients))
    method = unlearning.bad_teacher(one, **options)
    updated, _ = method.update(jax.random.key(0), task, given, (), request)
    np.testing.assert_allclose(linear.weights(updated) - linear.weights(given), steps, atol=1e-5)


def test_the_rewound_epoch_is_nearest_to_the_last_models_error_on_unseen_examples():
    """By hand: the last model is right on 1 of the 2 unseen examples of class 7."""
    seen = {
        # Forget accuracy after each epoch: 1, 3/4, 1/4, 0.
        "forget": {"accuracy": jnp.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])},
        # Of the others (class 2, all right) nothing counts; of earlier epochs neither.
        "validation": {"accuracy": jnp.array([[1, 1, 1]] * 2 + [[0, 0, 1]] + [[0, 1, 1]])},
    }
    request = Request(
        {"targets": jnp.array([7, 7, 7, 7])}, validation={"targets": jnp.array([7, 7, 2])}
    )
    # Half is as far from 3/4 as from 1/4: the earlier epoch.
    assert int(distil._forget_error_near_unseen(seen, request)) == 1
    seen["validation"]["accuracy"] = seen["validation"]["accuracy"].at[-1].set(jnp.array([0, 0, 1]))
    assert int(distil._forget_error_near_unseen(seen, request)) == 3
    seen["validation"]["accuracy"] = seen["validation"]["accuracy"].at[-1].set(jnp.array([1, 1, 0]))
    assert int(distil._forget_error_near_unseen(seen, request)) == 0


def test_examples_of_weight_0_count_neither_as_forgotten_nor_as_unseen():
    seen = {
        "forget": {"accuracy": jnp.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]])},
        "validation": {"accuracy": jnp.array([[1, 1]] * 2 + [[1, 0]])},
    }

    def chosen(forget=(1.0, 1.0, 1.0), validation=(1.0, 1.0), classes=(7, 7)):
        request = Request(
            {"targets": jnp.array([7, 7, 7]), "weight": jnp.array(forget)},
            validation={"targets": jnp.array(classes), "weight": jnp.array(validation)},
        )
        return int(distil._forget_error_near_unseen(seen, request))

    assert chosen() == 1  # 2/3 is nearest to 1/2
    assert chosen(validation=(1.0, 0.0)) == 0 and chosen(validation=(0.0, 1.0)) == 2
    assert chosen(forget=(0.0, 0.0, 1.0), validation=(0.0, 1.0)) == 1
    # Nothing unseen of the kind: nothing to go by, the last epoch.
    assert chosen(validation=(0.0, 0.0)) == 2 and chosen(classes=(1, 2)) == 2


def test_rewinding_returns_the_model_that_fewer_epochs_give(digits):
    """Chosen in NumPy from runs of one, two, ... epochs, on half a class."""
    task = problems.mlp()
    three = np.flatnonzero(digits["targets"] == 3)
    others = np.flatnonzero(digits["targets"] != 3)[:200]
    rows = (three[:40], np.r_[three[40:80], others], three[80:])
    request = Request(*({k: jnp.asarray(v[r]) for k, v in digits.items()} for r in rows))
    state, _ = training.train(
        task,
        optax.adam(1e-2),
        digits,
        jnp.asarray(np.r_[rows[0], rows[1]]),
        jax.random.key(0),
        num_epochs=8,
        batch_size=40,
    )
    options = {"max_epochs": 2, "batch_size": 40}

    def scrubbed(num_epochs, **more):
        method = unlearning.scrub(optax.adam(3e-3), num_epochs=num_epochs, **options, **more)
        return method.update(jax.random.key(1), task, state.variables, (), request)[0]

    runs = [scrubbed(n) for n in (1, 2, 3)]
    accuracy = lambda v, p: float(training.evaluate(task, v, p)["accuracy"].mean())
    reference = accuracy(runs[-1], request.validation)
    distances = [abs(accuracy(v, request.forget) - reference) for v in runs]
    chosen = int(np.argmin(distances))
    assert chosen < 2, "the last model is chosen: nothing is tested"
    problems.assert_trees_close(scrubbed(3, rewind=True), runs[chosen])


def test_rewinding_needs_validation_data_and_labels():
    method = unlearning.scrub(optax.sgd(0.1), rewind=True)
    assert method.needs == {"forget", "retain", "validation", "inputs", "labels"}
    assert unlearning.scrub(optax.sgd(0.1)).needs == {"forget", "retain", "inputs", "labels"}
    assert unlearning.bad_teacher(optax.sgd(0.1)).needs == {"forget", "retain", "inputs"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: unlearning.scrub(tx, alpha=-1.0), "alpha must be >= 0, got -1.0"),
        (lambda tx: unlearning.scrub(tx, gamma=-1.0), "gamma must be >= 0, got -1.0"),
        (lambda tx: unlearning.scrub(tx, max_epochs=-1), "max_epochs must be >= 0, got -1"),
        (lambda tx: unlearning.scrub(tx, temperature=0.0), "temperature must be > 0"),
        (lambda tx: unlearning.bad_teacher(tx, retain_fraction=2.0), "retain_fraction must lie"),
        (
            lambda tx: unlearning.bad_teacher(tx, weighting="batch"),
            "weighting must be one of .* got 'batch'",
        ),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax.sgd(0.1))


def test_without_unseen_examples_of_the_kind_the_last_epoch_is_kept():
    seen = {"forget": {"accuracy": jnp.array([[0.0], [0.5], [1.0]])}}
    seen["validation"] = {"accuracy": jnp.ones((3, 2))}
    request = Request({"targets": jnp.array([3])}, validation={"targets": jnp.array([4, 4])})
    assert distil._forget_error_near_unseen(seen, request) == 2


def test_defaults_are_those_of_the_published_code():
    given = inspect.signature(unlearning.scrub).parameters
    defaults = {name: given[name].default for name in ("alpha", "gamma", "temperature")}
    assert defaults == {"alpha": 0.001, "gamma": 0.99, "temperature": 4.0}


def test_a_step_takes_as_many_examples_as_it_is_told():
    """At a rate of 1 and one class of inputs, steps add up: more of them go further."""
    request, given, teacher = linear.problem()
    results = [
        unlearning.scrub(optax.sgd(RATE), num_epochs=1, max_epochs=0, batch_size=size).update(
            jax.random.key(0), linear.TASK, given, (), request._replace(original=teacher)
        )[0]
        for size in (1, 1000)
    ]
    one, many = (np.abs(linear.weights(r) - linear.weights(given)).sum() for r in results)
    assert one > 2 * many
