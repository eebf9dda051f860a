import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearnjax import data as data_lib
from unlearnjax import models, tasks, training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning import regression


@pytest.fixture(scope="module")
def problem():
    """Diabetes; the patients of low progression are forgotten."""
    train = data_lib.load("diabetes").train
    task = tasks.regression(tasks.from_linen(models.MLP(num_classes=1, hidden=(32,))))

    @jax.jit
    def fit(rng, indices):
        options = {"num_epochs": 60, "batch_size": 32}
        return training.train(task, optax.adam(3e-3), train, indices, rng, **options)[0].variables

    forget = data_lib.forget_sets.in_band(train["raw_targets"], 25, 75)
    retain = np.setdiff1d(np.arange(len(train["targets"])), forget)
    parts = ({k: jnp.asarray(v[i]) for k, v in train.items()} for i in (forget, retain))
    original, oracle = (fit(jax.random.key(0), i) for i in (np.arange(354), retain))
    return task, original, oracle, Request(*parts)


def error(problem, variables, part):
    outputs = training.evaluate(problem[0], variables, getattr(problem[3], part))
    return float(outputs["absolute_error"].mean())


@pytest.mark.parametrize(
    "method",
    [
        unlearning.blindspot(optax.adam(1e-3), num_epochs=10, blind_epochs=10, batch_size=32),
        unlearning.gaussian_amnesiac(optax.adam(3e-4), num_epochs=5, batch_size=32),
    ],
    ids=["blindspot", "gaussian_amnesiac"],
)
def test_errors_on_the_band_come_near_those_of_the_oracle(problem, method):
    task, original, oracle, request = problem
    method = unlearning.enforce(method)
    updated, _ = jax.jit(lambda rng: method.update(rng, task, original, (), request))(
        jax.random.key(1)
    )
    plain = unlearning.finetune(optax.adam(1e-3), num_epochs=10, batch_size=32)
    tuned, _ = plain.update(jax.random.key(1), task, original, (), request)
    target = error(problem, oracle, "forget")
    gaps = [abs(error(problem, v, "forget") - target) for v in (original, tuned, updated)]
    assert gaps[2] < 0.6 * min(gaps[:2])
    assert error(problem, updated, "retain") < 0.65


@pytest.mark.parametrize(("weight", "options"), [(0.0, {}), (30.0, {"weighting": "part"})])
def test_blindspot_pulls_predictions_and_attention_to_the_teachers(problem, weight, options):
    """A full-batch step against the gradient worked out by hand."""
    task, original, _, request = problem
    blind = unlearning.blindspot(
        optax.sgd(0.1), blind_tx=optax.sgd(0.0), feature_weight=weight, batch_size=1000, **options
    )
    sizes = [len(part["targets"]) for part in (request.forget, request.retain)]
    of_forget, of_retain = (1, 1) if options else (size / sum(sizes) for size in sizes)
    rng = jax.random.key(3)
    updated, _ = blind.update(rng, task, original, (), request)
    # A teacher that did not learn is a fresh model: found again by its effect on a second student.
    teacher_rng = jax.random.split(jax.random.split(rng, 4)[1], 1)[0]
    teacher = training.init_variables(task, request.retain, teacher_rng)

    def predict(params, part):
        outputs, _ = task.apply({"params": params}, part, None, False)
        squared = outputs["features"] ** 2
        attention = squared / jnp.linalg.norm(squared, axis=1, keepdims=True)
        return outputs["logits"][:, 0], attention

    def loss(params):
        target, seen = predict(teacher["params"], request.forget)
        own, attention = predict(params, request.forget)
        near = (predict(params, request.retain)[0] - request.retain["targets"]) ** 2
        away = jnp.mean((own - target) ** 2) / 2 + weight * jnp.mean((attention - seen) ** 2)
        return of_forget * away + of_retain * near.mean() / 2

    grads = jax.grad(loss)(original["params"])
    for layer in grads:
        expected = original["params"][layer]["kernel"] - 0.1 * grads[layer]["kernel"]
        np.testing.assert_allclose(updated["params"][layer]["kernel"], expected, atol=1e-5)


def test_attention_distance_is_that_of_squares_over_their_norm(rng):
    student, frozen = (rng.normal(size=(4, 6)).astype(np.float32) for _ in range(2))
    term = regression.attention_distance("blind")

    def value(features):
        return term(None, {"features": features}, {}, {"blind": {"features": frozen}})

    maps = [x**2 / np.linalg.norm(x**2, axis=1, keepdims=True) for x in (student, frozen)]
    expected = ((maps[0] - maps[1]) ** 2).mean(1)
    np.testing.assert_allclose(value(student), expected, rtol=1e-4)
    np.testing.assert_allclose(value(100 * student), expected, rtol=1e-4)
    gradient = jax.grad(lambda x: value(x).sum())(jnp.zeros((4, 6)))
    np.testing.assert_array_equal(gradient, 0.0)


def test_the_blind_teacher_trains_a_little_on_the_retain_set_and_the_student_in_training_mode(
    problem, monkeypatch
):
    task, original, _, request = problem
    called, modes = [], []

    def recording(task, tx, data, indices, rng, **options):
        called.append((tx, data, indices, options))
        return training.init_state(original, optax.sgd(0.1)), {}

    def apply(variables, batch, rng, train):
        modes.append(train)
        return task.apply(variables, batch, rng, train)

    monkeypatch.setattr(regression.training, "train", recording)
    tx = optax.sgd(0.1)
    for options in ({"blind_epochs": 3, "batch_size": 32}, {"batch_size": 10_000}):
        method = unlearning.blindspot(tx, **options)
        update = lambda rng, method=method: method.update(
            rng, task._replace(apply=apply), original, (), request
        )
        jax.eval_shape(update, jax.random.key(0))
        assert True in modes, "the student is not trained in training mode"
        modes.clear()
    n = len(request.retain["targets"])
    for (used, data, indices, options), (epochs, size) in zip(
        called, [(3, 32), (2, n)], strict=True
    ):
        assert used is tx and data is request.retain
        assert indices.shape == (n,)
        assert options == {"num_epochs": epochs, "batch_size": size, "start": {}}


def test_gaussian_targets_have_the_moments_of_all_targets(problem):
    seen = []
    _, original, _, request = problem
    task = problem[0]
    spy = task._replace(
        loss=lambda outputs, batch: (seen.append(batch["targets"]), task.loss(outputs, batch))[1]
    )
    many = {k: jnp.repeat(v, 50, axis=0) for k, v in request.forget.items()}
    method = unlearning.gaussian_amnesiac(optax.sgd(0.0), num_epochs=1, batch_size=100000)
    with jax.disable_jit():
        method.update(jax.random.key(0), spy, original, (), Request(many, request.retain))
    drawn = np.asarray(seen[-1])
    everything = np.concatenate([many["targets"], request.retain["targets"]])
    kept = np.isin(drawn, np.asarray(request.retain["targets"]))
    drawn = drawn[~kept]
    assert len(drawn) > 2000
    assert drawn.mean() == pytest.approx(everything.mean(), abs=0.06)
    assert drawn.std() == pytest.approx(everything.std(), rel=0.06)


def test_redrawn_targets_weigh_as_much_as_others_do(problem):
    """At a learning rate of 0 but for a bias: the step is the mean error, over all or by parts."""
    request = problem[3]
    sizes = [len(part["targets"]) for part in (request.forget, request.retain)]
    bias = problem[0]._replace(
        apply=lambda v, batch, rng, train: (
            {"logits": jnp.broadcast_to(v["params"], (len(batch["targets"]), 1))},
            v,
        )
    )
    key, steps = jax.random.key(0), {}
    for name, options in (("example", {}), ("part", {"weighting": "part"})):
        method = unlearning.gaussian_amnesiac(
            optax.sgd(1.0), num_epochs=1, batch_size=1000, retain_weight=0.5, **options
        )
        updated, _ = method.update(key, bias, {"params": jnp.zeros(1)}, (), request)
        steps[name] = float(updated["params"][0])
    retain = 0.5 * float(request.retain["targets"].mean())
    forget = steps["part"] - retain  # the mean of what was drawn
    expected = (sizes[0] * forget + sizes[1] * retain) / sum(sizes)
    assert steps["example"] == pytest.approx(expected, abs=1e-5)


def test_defaults_of_blindspot_are_the_authors():
    parameters = inspect.signature(unlearning.blindspot).parameters.values()
    assert {p.name: p.default for p in parameters if p.name != "tx"} == {
        "blind_tx": None,
        "blind_epochs": 2,
        "feature_weight": 50.0,
        "num_epochs": 1,
        "batch_size": 64,
        "weighting": "example",
        "layer": None,
    }


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="feature_weight must be >= 0"):
        unlearning.blindspot(optax.sgd(0.1), feature_weight=-1.0)
    with pytest.raises(ValueError, match="blind_epochs must be >= 1"):
        unlearning.blindspot(optax.sgd(0.1), blind_epochs=0)
