import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

from tests import problems
from tests.unlearning import linear
from unlearnjax import training, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning import objectives

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.3, 0.0], [-3.0, 4.0, 3.0]])
TEACHER = np.array([[1.0, 1.0, 0.0], [2.0, 0.0, -1.0], [-3.0, 4.0, 3.0]])
TARGETS = np.array([0, 2, 1])
TASK = problems.softmax_regression()


def term(function, **teachers):
    outputs = {"logits": jnp.asarray(LOGITS), "features": jnp.asarray(LOGITS)}
    return function(TASK, outputs, {"targets": jnp.asarray(TARGETS)}, teachers)


def test_terms_agree_with_scipy():
    losses = -scipy.special.log_softmax(LOGITS, axis=1)[range(3), TARGETS]
    np.testing.assert_allclose(term(objectives.task_loss), losses, rtol=1e-5)
    np.testing.assert_allclose(
        term(objectives.bounded_loss()), np.minimum(losses, np.log(3)), rtol=1e-5
    )
    np.testing.assert_allclose(
        term(objectives.bounded_loss(0.5)), np.minimum(losses, 0.5), rtol=1e-5
    )
    probs = scipy.special.softmax(LOGITS, axis=1)
    uniform = scipy.stats.entropy(np.full((3, 3), 1 / 3), probs, axis=1)
    np.testing.assert_allclose(term(objectives.uniform_target), uniform, rtol=1e-4, atol=1e-6)
    teacher = {"logits": jnp.asarray(TEACHER), "features": jnp.asarray(TEACHER)}
    for temperature in (1.0, 4.0):
        softened = [scipy.special.softmax(x / temperature, axis=1) for x in (TEACHER, LOGITS)]
        expected = temperature**2 * scipy.stats.entropy(*softened, axis=1)
        actual = term(objectives.divergence("original", temperature), original=teacher)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    unsoftened = term(objectives.divergence("original", 1.0), original=teacher)
    np.testing.assert_array_equal(term(objectives.divergence(), original=teacher), unsoftened)
    squared = ((LOGITS - TEACHER) ** 2).sum(1)
    np.testing.assert_allclose(
        term(objectives.feature_distance(), original=teacher), squared, rtol=1e-5, atol=1e-6
    )
    actual = term(objectives.output_distance(), original=teacher)
    np.testing.assert_allclose(actual, squared / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weighting", ["part", "example"])
def test_combination_takes_the_mean_of_each_part_or_of_the_step(weighting):
    """However many examples of which part are in the batch, and with uneven weights."""
    batch = {
        "targets": jnp.asarray(TARGETS),
        "part": jnp.array([0, 1, 1]),
        "weight": jnp.array([2.0, 1.0, 3.0]),
        "inputs": jnp.asarray(LOGITS),
    }
    task = TASK._replace(apply=lambda v, b, r, t: ({"logits": b["inputs"] * v["params"]}, v))
    objective = objectives.combine(
        forget=[(-0.3, objectives.task_loss)],
        retain=[(0.7, objectives.task_loss)],
        penalty=objectives.l2(0.1),
        weighting=weighting,
    )
    variables = {"params": jnp.asarray(1.5)}
    losses, _ = objective(task, {"original": variables})(variables, batch, None)
    actual = (losses * batch["weight"]).sum() / batch["weight"].sum()
    each = -scipy.special.log_softmax(1.5 * LOGITS, axis=1)[range(3), TARGETS]
    retained = 0.7 * (1 * each[1] + 3 * each[2])
    expected = {
        "part": -0.3 * each[0] + retained / 4,
        "example": (2 * -0.3 * each[0] + retained) / 6,
    }
    assert float(actual) == pytest.approx(expected[weighting] + 0.1 * 1.5**2, rel=1e-5)
    alone = {k: v[:1] for k, v in batch.items()}
    losses, _ = objective(task, {"original": variables})(variables, alone, None)
    assert float(losses[0]) == pytest.approx(-0.3 * each[0] + 0.1 * 1.5**2, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"train": False}, {"train": True}])
def test_only_students_that_are_to_train_run_in_training_mode(options):
    """A model whose output is 10 more in training, and 100 more where it has a key."""
    apply = lambda v, batch, rng, train: (
        {"value": v["params"] * batch["inputs"] + 10 * train + 100 * (rng is not None)},
        v,
    )
    both = lambda task, outputs, batch, teachers: outputs["value"] - teachers["same"]["value"]
    objective = objectives.combine(retain=[(1.0, both)], **options)
    variables = {"params": jnp.asarray(2.0)}
    batch = {"inputs": jnp.arange(3.0), "weight": jnp.ones(3), "part": jnp.ones(3, int)}
    loss_fn = objective(TASK._replace(apply=apply), {"same": variables})
    losses, _ = loss_fn(variables, batch, jax.random.key(0))
    np.testing.assert_array_equal(losses, 110 if options.get("train") else 0)


def test_what_is_prepared_is_what_the_step_sees_and_has_no_gradient():
    batch = {
        "targets": jnp.asarray(TARGETS),
        "part": jnp.ones(3, int),
        "weight": jnp.ones(3),
        "inputs": jnp.asarray(LOGITS),
    }
    task = TASK._replace(apply=lambda v, b, r, t: ({"logits": b["inputs"] * v["params"]}, v))
    seen = []

    def prepare(task, variables, teachers, batch, rng):
        seen.append(rng)
        return {**batch, "inputs": batch["inputs"] * variables["params"]}

    loss_fn = objectives.combine(retain=[(1.0, objectives.task_loss)], prepare=prepare)(task, {})
    rng = jax.random.key(0)
    total = lambda w: loss_fn({"params": w}, batch, rng)[0].sum()
    value, slope = jax.value_and_grad(total)(jnp.asarray(1.5))
    loss = lambda w: -scipy.special.log_softmax(w * 1.5 * LOGITS, axis=1)[range(3), TARGETS].sum()
    assert float(value) == pytest.approx(loss(1.5), rel=1e-5)
    # Saturated predictions cost float32 three of its digits.
    assert float(slope) == pytest.approx((loss(1.5 + 1e-5) - loss(1.5 - 1e-5)) / 2e-5, rel=1e-3)
    assert not jnp.array_equal(*(jax.random.key_data(key) for key in (seen[0], rng)))


@pytest.mark.parametrize("cached", [True, False])
def test_teachers_get_no_gradient(cached):
    """Student and teacher of one parameter w: of the loss `w x * w x` half is the student's."""
    apply = lambda v, batch, rng, train: ({"value": v["params"] * batch["inputs"]}, v)
    task = TASK._replace(apply=apply)
    product = lambda task, outputs, batch, teachers: outputs["value"] * teachers["same"]["value"]
    objective = objectives.combine(retain=[(1.0, product)])
    x = jnp.array([1.0, 3.0])
    batch = {"inputs": x, "weight": jnp.ones(2), "part": jnp.ones(2, int)}

    def total(w):
        own = {**batch, "same.value": w * x} if cached else batch
        return objective(task, {"same": {"params": w}})({"params": w}, own, None)[0].sum()

    value, slope = jax.value_and_grad(total)(jnp.asarray(0.5))
    assert (float(value), float(slope)) == (0.25 * 10, 0.5 * 10)


def test_a_divergence_may_be_from_what_is_said_of_a_view():
    """By a teacher, or by the student itself, which then moves on its own side alone."""
    kl = lambda p, q: scipy.stats.entropy(
        *(scipy.special.softmax(x, axis=1) for x in (p, q)), axis=1
    )
    teacher = {"logits": jnp.zeros((3, 3)), "seen.logits": jnp.asarray(TEACHER)}
    found = term(objectives.divergence("old", at="seen"), old=teacher)
    np.testing.assert_allclose(found, kl(TEACHER, LOGITS), rtol=1e-4, atol=1e-6)

    def own(logits, seen):
        outputs = {"logits": logits, "seen.logits": seen}
        return objectives.divergence(None, at="seen")(TASK, outputs, {}, {}).sum()

    both = jnp.asarray(LOGITS), jnp.asarray(TEACHER)
    np.testing.assert_allclose(own(*both), kl(TEACHER, LOGITS).sum(), rtol=1e-4)
    moved, still = jax.grad(own, (0, 1))(*both)
    probs = [scipy.special.softmax(x, axis=1) for x in (LOGITS, TEACHER)]
    np.testing.assert_allclose(moved, probs[0] - probs[1], atol=1e-6)
    assert not still.any()
    with pytest.raises(
        ValueError, match="at must name a view where the student is its own teacher"
    ):
        objectives.divergence(None)


def test_penalties():
    params, original = {"w": jnp.array([1.0, -2.0])}, {"w": jnp.array([0.5, -2.0])}
    assert objectives.l1(2.0)(params, original) == pytest.approx(6.0)
    assert objectives.l2(2.0)(params, original) == pytest.approx(10.0)
    assert objectives.l2_to_original(2.0)(params, original) == pytest.approx(0.5)


def test_a_penalty_may_weigh_each_parameter():
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
    original = {"a": jnp.array([0.0, 1.0]), "b": jnp.array([1.0])}
    weight = {"a": jnp.array([2.0, 0.0]), "b": jnp.array([0.5])}
    assert float(objectives.l2_to_original(10.0, weight)(params, original)) == 10 * (2 + 0.5 * 4)
    assert float(objectives.l2_to_original(10.0)(params, original)) == 10 * (1 + 1 + 4)


def test_random_targets_are_uniform_over_the_other_classes():
    targets = jnp.repeat(jnp.arange(4), 3000)
    drawn = np.asarray(objectives.random_targets(jax.random.key(0), targets, 4))
    assert not (drawn == np.asarray(targets)).any()
    for c in range(4):
        counts = np.bincount(drawn[np.asarray(targets) == c], minlength=4)
        assert counts[c] == 0
        assert scipy.stats.chisquare(np.delete(counts, c)).pvalue > 1e-3


def test_second_best_targets():
    best = objectives.second_best_targets(jnp.asarray(LOGITS), jnp.asarray(TARGETS))
    np.testing.assert_array_equal(best, [2, 1, 2])


def test_cached_teachers_give_what_teachers_in_the_step_give(digits):
    task = problems.mlp()
    variables = problems.init(task, digits)
    request = Request(
        {k: jnp.asarray(v[:30]) for k, v in digits.items()},
        {k: jnp.asarray(v[30:100]) for k, v in digits.items()},
    )
    objective = objectives.combine(
        forget=[(1.0, objectives.divergence("incompetent"))],
        retain=[(1.0, objectives.divergence("original"))],
    )
    results = [
        unlearning.descend(
            objective,
            optax.adam(1e-2),
            over="union",
            num_epochs=2,
            batch_size=32,
            teachers={
                "original": unlearning.original_model,
                "incompetent": unlearning.incompetent_model,
            },
            cache_teachers=cached,
            labels=False,
        ).update(jax.random.key(0), task, variables, (), request)[0]
        for cached in (None, ())
    ]
    problems.assert_trees_close(*results)
    assert not np.allclose(
        results[0]["params"]["Dense_0"]["kernel"], variables["params"]["Dense_0"]["kernel"]
    )


@pytest.mark.parametrize("over", unlearning.descend.__globals__["OVER"])
def test_every_way_over_the_request_visits_what_it_says(over, digits):
    """Counted by an objective whose gradient counts visits per example."""
    forget, retain = np.arange(10), np.arange(10, 45)
    task = problems.mlp()._replace(
        init=lambda rng, batch: {"params": jnp.zeros(45)},
        apply=lambda v, b, r, t: (
            {"visits": v["params"][b["index"]], "logits": jnp.zeros((len(b["index"]), 2))},
            v,
        ),
        loss=lambda outputs, batch: outputs["visits"],
        metrics=lambda outputs, batch: {},
    )

    def count(task, teachers):
        def loss_fn(variables, batch, rng):
            outputs, updated = task.apply(variables, batch, rng, True)
            # The step divides by the sum of weights; undone here, so that a visit counts 1.
            return outputs["visits"] * batch["weight"].sum(), ({}, updated)

        return loss_fn

    request = Request(
        {k: jnp.asarray(v[forget]) for k, v in digits.items()},
        {k: jnp.asarray(v[retain]) for k, v in digits.items()},
    )
    loop = unlearning.descend(
        count, optax.sgd(1.0), over=over, num_epochs=3, batch_size=8, forget_epochs=2
    )
    visits, _ = loop.update(jax.random.key(0), task, {"params": jnp.zeros(45)}, (), request)
    visits = -np.asarray(visits["params"])
    expected = {"forget": (3, 0), "retain": (0, 3), "union": (3, 3), "alternate": (2, 3)}
    if over == "paired":  # 5 retain batches an epoch, beside 5 of the 2 forget batches' rounds
        np.testing.assert_allclose(visits[retain], 3)
        assert visits[forget].min() >= 6 and visits[forget].max() <= 9
        return
    np.testing.assert_allclose(visits[forget], expected[over][0], atol=1e-5)
    np.testing.assert_allclose(visits[retain], expected[over][1], atol=1e-5)


def test_recorded_curves_are_the_evaluation_after_each_epoch(digits):
    task = problems.mlp()
    variables = problems.init(task, digits)
    request = Request(
        {k: jnp.asarray(v[:30]) for k, v in digits.items()},
        {k: jnp.asarray(v[30:100]) for k, v in digits.items()},
        {k: jnp.asarray(v[100:150]) for k, v in digits.items()},
    )
    objective = objectives.combine(retain=[(1.0, objectives.task_loss)])
    options = {"over": "retain", "num_epochs": 3, "batch_size": 32}
    method = unlearning.descend(
        objective, optax.adam(1e-2), record=("forget", "retain", "validation"), **options
    )
    assert method.needs == {"forget", "retain", "validation", "inputs", "labels"}
    updated, trace = method.update(jax.random.key(0), task, variables, (), request)
    silent = unlearning.descend(objective, optax.adam(1e-2), **options)
    same, _ = silent.update(jax.random.key(0), task, variables, (), request)
    problems.assert_trees_close(updated, same)
    for part in ("forget", "retain", "validation"):
        outputs = training.evaluate(task, updated, getattr(request, part))
        for metric in ("loss", "accuracy"):
            curve = trace.curves[f"{part}_{metric}"]
            assert curve.shape == (3,)
            assert float(curve[-1]) == pytest.approx(float(outputs[metric].mean()), rel=1e-4)


def test_select_returns_the_model_of_the_epoch_that_it_names(digits):
    task = problems.mlp()
    variables = problems.init(task, digits)
    request = Request(None, {k: jnp.asarray(v[:100]) for k, v in digits.items()})
    objective = objectives.combine(retain=[(1.0, objectives.task_loss)])
    options = {"over": "retain", "batch_size": 50}

    def nearest(seen, given):
        """The epoch whose loss is nearest to that of the last one plus a half."""
        assert seen["retain"]["loss"].shape == (6, 100) and given is request
        loss = seen["retain"]["loss"].mean(axis=1)
        return jnp.argmin(jnp.abs(loss - loss[-1] - 0.5))

    method = unlearning.descend(
        objective, optax.adam(3e-2), num_epochs=6, record=("retain",), select=nearest, **options
    )
    kept, trace = method.update(jax.random.key(0), task, variables, (), request)
    curve = np.asarray(trace.curves["retain_loss"])
    chosen = int(np.argmin(np.abs(curve - curve[-1] - 0.5)))
    assert 0 < chosen < 5
    fewer = unlearning.descend(objective, optax.adam(3e-2), num_epochs=chosen + 1, **options)
    expected, _ = fewer.update(jax.random.key(0), task, variables, (), request)
    problems.assert_trees_close(kept, expected)


def test_what_a_model_only_carries_is_kept_once_and_not_per_epoch(digits):
    task = problems.mlp()
    carried = jnp.arange(35.0).reshape(5, 7)
    variables = {**problems.init(task, digits), "graph": {"edges": carried}}
    request = Request(None, {k: jnp.asarray(v[:40]) for k, v in digits.items()})
    method = unlearning.descend(
        objectives.combine(retain=[(1.0, objectives.task_loss)], train=True),
        optax.adam(3e-2),
        over="retain",
        batch_size=20,
        num_epochs=3,
        record=("retain",),
        select=lambda seen, given: 1,
    )
    update = lambda variables: method.update(jax.random.key(0), task, variables, (), request)[0]
    problems.assert_trees_equal(update(variables)["graph"]["edges"], carried)
    made = [
        out.aval.shape
        for equation in problems.equations(jax.make_jaxpr(update)(variables).jaxpr)
        if equation.primitive.name in ("scan", "select_n")
        for out in equation.outvars
    ]
    kernel = variables["params"]["Dense_1"]["kernel"].shape
    assert (3, *kernel) in made  # of the parameters a copy per epoch
    assert (3, 5, 7) not in made
    assert sum(shape == (5, 7) for shape in made) <= 2  # handed on by the two loops


@pytest.mark.parametrize("over", ["union", "paired", "alternate"])
@pytest.mark.parametrize("weighted", ["forget", "retain", "both"])
def test_weights_of_one_part_count_as_ones_in_the_other(over, weighted):
    """Against the same request with the weights of both written out."""
    request, given, _ = linear.problem(num_forget=4, num_retain=4)
    weight = {"forget": jnp.array([2.0, 0.0, 1.0, 3.0]), "retain": jnp.array([0.5, 1.0, 0.0, 2.0])}
    named = ("forget", "retain") if weighted == "both" else (weighted,)

    def weigh(part, name):
        return {**part, "weight": weight[name]} if name in named else part

    request = Request(weigh(request.forget, "forget"), weigh(request.retain, "retain"))
    objective = objectives.combine(
        forget=[(-0.5, objectives.task_loss)], retain=[(1.0, objectives.task_loss)]
    )
    loop = unlearning.descend(objective, optax.sgd(0.5), over=over, num_epochs=1, batch_size=100)
    updated, _ = loop.update(jax.random.key(0), linear.TASK, given, (), request)
    w = linear.weights(given)

    def mean(w, name):
        slopes = linear.cross_entropy_slopes(w, getattr(request, name))
        own = np.asarray(weight[name]) if name in named else np.ones(4)
        return np.average(slopes, axis=0, weights=own)

    if over == "alternate":
        w = w + 0.5 * 0.5 * mean(w, "forget")
        w = w - 0.5 * mean(w, "retain")
    else:
        w = w - 0.5 * (mean(w, "retain") - 0.5 * mean(w, "forget"))
    np.testing.assert_allclose(linear.weights(updated), w, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "both"}, "over must be one of"),
        ({"teachers": ("original",)}, "teachers must map names to functions"),
        ({"record": ("test",)}, r"record\[0\] must be one of .* got 'test'"),
        ({"retain_fraction": 0.0}, r"retain_fraction must lie in \(0, 1\], got 0.0"),
        ({"select": lambda seen, request: 0}, "select needs record"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
    ],
)
def test_bad_options_of_the_loop_are_named(options, message):
    objective = objectives.combine(retain=[(1.0, objectives.task_loss)])
    options = {"over": "retain", "num_epochs": 1, "batch_size": 1, **options}
    with pytest.raises(ValueError, match=message):
        unlearning.descend(objective, optax.sgd(1.0), **options)
