"""Named parts, views, smoothing and cached teachers of the one loop, on a model done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from unlearnjax import unlearning
from unlearnjax.types import Request, Task
from unlearnjax.unlearning import objectives, teachers
from unlearnjax.unlearning.parts import join

# The output is the parameter times the input, and so is the loss.
SCALAR = Task(
    init=lambda rng, batch: {"params": jnp.ones(())},
    apply=lambda variables, batch, rng, train: (
        {"value": variables["params"] * batch["inputs"], "twice": 2 * batch["inputs"]},
        {**variables, "seen": batch["inputs"].sum()},
    ),
    loss=lambda outputs, batch: outputs["value"],
    metrics=lambda outputs, batch: {},
)
START = {"params": jnp.ones(()), "seen": jnp.zeros(())}


def batch_of(**columns):
    return {name: jnp.asarray(value) for name, value in columns.items()}


def mean_loss(objective, batch, params=1.0, teachers=None):
    """What a step minimises."""

    def value(w):
        variables = {**START, "params": w}
        losses, _ = objective(SCALAR, teachers or {})(variables, batch, jax.random.key(0))
        return (losses * batch["weight"]).sum() / batch["weight"].sum()

    return value(jnp.asarray(params))


BATCH = batch_of(
    inputs=[1.0, 2.0, 4.0, 8.0], weight=[1.0, 1.0, 3.0, 1.0], part=[0, 2, 2, 3]
)  # forget, new, new, buffer


def test_each_named_part_has_its_own_terms():
    square = lambda task, outputs, batch, teachers: outputs["value"] ** 2
    parts = {"new": [(1.0, objectives.task_loss)], "buffer": [(0.5, square)]}
    by_part = objectives.combine(parts=parts, forget=[(-1.0, objectives.task_loss)])
    new, buffer = (2 + 3 * 4) / 4, 0.5 * 64
    assert float(mean_loss(by_part, BATCH)) == pytest.approx(new + buffer - 1)
    alike = objectives.combine(
        parts=parts, forget=[(-1.0, objectives.task_loss)], weighting="example"
    )
    assert float(mean_loss(alike, BATCH)) == pytest.approx((4 * new + buffer - 1) / 6)


def test_views_take_the_place_of_columns_and_statistics_are_of_the_first_pass():
    batch = {**BATCH, **batch_of(**{"other.inputs": [10.0, 20.0, 30.0, 40.0]})}
    term = lambda task, outputs, batch, teachers: (
        outputs["value"] * outputs["other.value"] + teachers["fixed"]["other.value"]
    )
    own = objectives.viewed(objectives.task_loss, "other")
    objective = objectives.combine(
        parts={"forget": [(1.0, term)], "buffer": [(1.0, own)]}, views=("other",), train=True
    )
    loss_fn = objective(SCALAR, {"fixed": {"params": jnp.asarray(3.0)}})
    losses, (_, updated) = loss_fn(START, batch, jax.random.key(0))
    by_hand = [6 * (1 * 10 + 3 * 10), 0, 0, 6 * 40]  # each times the step over the part
    np.testing.assert_allclose(losses, by_hand)
    assert float(updated["seen"]) == 15
    with pytest.raises(ValueError, match=r"views must name columns 'refusal\.\*', a batch has"):
        mean_loss(objectives.combine(forget=[(1.0, term)], views=("refusal",)), BATCH)


@pytest.mark.parametrize("weighting", ["part", "example"])
def test_smoothing_gets_the_mean_of_its_part_as_a_function_of_the_parameters(weighting):
    """Here: the mean at a shifted parameter, whose gradient is taken there."""
    shifted = lambda mean: lambda params, key: mean(params + 0.5) ** 2
    square = lambda task, outputs, batch, teachers: outputs["value"] ** 2
    terms = {"new": [(1.0, square)], "buffer": [(1.0, objectives.task_loss)]}
    objective = objectives.combine(parts=terms, smooth={"new": shifted}, weighting=weighting)
    value, slope = jax.value_and_grad(lambda w: mean_loss(objective, BATCH, w))(1.0)
    new = lambda w: (((w + 0.5) ** 2) * (4 + 3 * 16) / 4) ** 2
    share = {"part": (1.0, 1.0), "example": (4 / 6, 1 / 6)}[weighting]
    assert float(value) == pytest.approx(share[0] * new(1.0) + share[1] * 8)
    step = (new(1 + 1e-6) - new(1 - 1e-6)) / 2e-6
    assert float(slope) == pytest.approx(share[0] * step + share[1] * 8, rel=1e-4)


def test_smoothing_is_given_a_key_of_the_step_and_the_part():
    keys = []
    kept = lambda mean: lambda params, key: keys.append(key) or mean(params)
    terms = {"forget": [(1.0, objectives.task_loss)], "new": [(1.0, objectives.task_loss)]}
    objective = objectives.combine(parts=terms, smooth={"forget": kept, "new": kept})
    mean_loss(objective, BATCH)
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 2


def test_what_parts_lack_is_filled_and_their_places_are_told():
    joined = join(
        {
            "retain": batch_of(inputs=[1.0, 2.0], targets=[3, 4]),
            "buffer": batch_of(inputs=[5.0], weight=[0.5], stored=[[7.0, 8.0]]),
        }
    )
    assert joined["part"].tolist() == [1, 1, 3]
    assert joined["targets"].tolist() == [3, 4, 3] and joined["targets"].dtype == jnp.int32
    assert joined["weight"].tolist() == [1, 1, 0.5]
    assert joined["stored"].tolist() == [[7, 8], [7, 8], [7, 8]]
    for column in ("inputs", "index"):
        with pytest.raises(ValueError, match=f"'{column}' must be in all parts or none, new has"):
            join({"forget": batch_of(a=[1.0], **{column: [1]}), "new": batch_of(a=[1.0])})
    with pytest.raises(ValueError, match=r"parts\['old'\] must be one of"):
        join({"old": batch_of(inputs=[1.0])})


def test_a_request_without_inputs_is_gone_down_like_any_other():
    task = SCALAR._replace(
        apply=lambda v, batch, rng, train: ({"value": v["params"] * batch["condition"]}, v)
    )
    objective = objectives.combine(forget=[(1.0, objectives.task_loss)])
    method = unlearning.enforce(
        unlearning.descend(
            objective,
            optax.sgd(1.0),
            over="forget",
            batch_size=2,
            num_epochs=1,
            labels=False,
            inputs=False,
        )
    )
    request = Request(batch_of(condition=[1.0, 2.0], inputs=[9.0, 9.0]))
    moved, _ = method.update(jax.random.key(0), task, {"params": jnp.zeros(())}, (), request)
    assert float(moved["params"]) == -1.5


def walk(parts, momentum=None, **options):
    """How far a scalar goes down the mean of each step, each part by itself."""
    terms = {name: [(1.0, objectives.task_loss)] for name in parts}
    data = {name: batch_of(inputs=values) for name, values in parts.items()}
    state, seen = unlearning.descend_parts(
        objectives.combine(parts=terms),
        optax.sgd(1.0, momentum),
        jax.random.key(0),
        SCALAR,
        START,
        data,
        **options,
    )
    return 1 - float(state.variables["params"]), state, seen


def test_three_parts_are_walked_through_side_by_side_or_in_turn():
    parts = {"new": [1.0, 3.0], "buffer": [10.0], "forget": [100.0, 300.0]}
    walked, state, _ = walk(parts, over="paired", along="new", batch_size=1, num_epochs=1)
    assert int(state.step) == 2 and walked == 1 + 3 + 2 * 10 + 100 + 300
    walked, state, _ = walk(parts, over="paired", along="buffer", batch_size=1, num_epochs=1)
    assert int(state.step) == 1 and walked in {10.0 + n + f for n in (1, 3) for f in (100, 300)}
    longer = {**parts, "retain": [5.0, 6.0, 7.0]}  # along the last one, unless it is said
    walked, state, _ = walk(longer, over="paired", batch_size=1, num_epochs=1)
    assert int(state.step) == 3 and walked in {18 + 30 + n + f for n in (5, 7) for f in (500, 700)}
    options = {"over": "alternate", "batch_size": 2, "num_epochs": 3, "epochs": {"forget": 1}}
    walked, state, seen = walk(parts, watch=lambda v: v["params"], **options)
    assert walked == 3 * (2 + 10) + 200 and int(state.step) == 9
    np.testing.assert_allclose(1 - seen, [212, 224, 236])
    rows = {"new": jnp.array([1])}
    assert walk(parts, over="alternate", batch_size=2, num_epochs=1, rows=rows)[0] == 3 + 10 + 200


def test_of_a_teachers_outputs_those_named_are_cached_and_the_others_computed():
    term = lambda task, outputs, batch, teachers: (
        outputs["value"] * (teachers["fixed"]["value"] + teachers["fixed"]["twice"])
    )
    parts = {"forget": batch_of(inputs=[1.0, 2.0])}
    results, seen = [], []
    for cached in ((), ("value",), ("twice",), ("value", "twice"), None):
        calls = []

        def apply(variables, batch, rng, train, calls=calls):
            calls.append("original.value" in batch or "fixed.value" in batch)
            return SCALAR.apply(variables, batch, rng, train)

        state, _ = unlearning.descend_parts(
            objectives.combine(forget=[(1.0, term)]),
            optax.sgd(0.1),
            jax.random.key(0),
            SCALAR._replace(apply=apply),
            START,
            parts,
            over="union",
            batch_size=2,
            num_epochs=1,
            teachers={"fixed": {"params": jnp.asarray(3.0)}},
            cache_teachers=cached,
        )
        results.append(float(state.variables["params"]))
        seen.append(len(calls))
    assert results == [pytest.approx(1 - 0.1 * (5 * 1 + 5 * 4) / 2)] * 5
    assert seen[3] == seen[4] < seen[1]  # the teacher is not asked again where all is known
    with pytest.raises(ValueError, match=r"among the outputs \['twice', 'value'\], got \['all'\]"):
        teachers.cached(SCALAR, {"fixed": START}, parts["forget"], ("all",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": {"old": []}}, r"parts\['old'\] must be one of"),
        ({"parts": {"forget": []}, "forget": [(1.0, None)]}, "forget must be given once"),
        ({"smooth": {"new": None}}, r"smooth\['new'\] must be one of"),
        ({"weighting": "sum"}, "weighting must be one of"),
        ({"views": "anchor"}, "views must be several names"),
    ],
)
def test_what_is_not_allowed_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        objectives.combine(**options)


def test_a_teacher_sees_what_was_prepared(digits):
    """A student that is its own teacher does not move, whatever became of the batch."""
    task = problems.softmax_regression()
    part = {k: jnp.asarray(v[:20]) for k, v in digits.items()}
    variables = problems.init(task, part)
    double = lambda task, variables, teachers, batch, rng: {**batch, "inputs": -2 * batch["inputs"]}
    objective = objectives.combine(forget=[(1.0, objectives.divergence("fixed"))], prepare=double)
    state, _ = unlearning.descend_parts(
        objective,
        optax.sgd(1.0),
        jax.random.key(0),
        task,
        variables,
        {"forget": part},
        over="union",
        batch_size=10,
        num_epochs=1,
        teachers={"fixed": variables},
    )
    problems.assert_trees_close(state.variables, variables, rtol=1e-5)


def test_a_batch_of_padding_moves_nothing_not_even_by_momentum():
    """Of two epochs of two steps the last is left out: slopes of 2, then half of what was."""
    walked, state, _ = walk(
        {"forget": [2.0, 2.0]}, momentum=0.5, over="union", batch_size=1, num_steps=3
    )
    assert walked == 2 + 3 + 3.5 and int(state.step) == 4


def test_a_column_of_one_part_only_reaches_its_term():
    """Also in the gradient of a term that is not defined at zero."""
    term = lambda task, outputs, batch, teachers: (
        outputs["value"] * jnp.log(batch["scale"]) / batch["scale"]
    )
    objective = objectives.combine(parts={"new": [(1.0, term)]})
    e = np.e
    state, _ = unlearning.descend_parts(
        objective,
        optax.sgd(1.0),
        jax.random.key(0),
        SCALAR,
        START,
        {"retain": batch_of(inputs=[1.0, 7.0]), "new": batch_of(inputs=[2.0], scale=[e])},
        over="union",
        batch_size=3,
        num_epochs=1,
    )
    assert float(state.variables["params"]) == pytest.approx(1 - 2 / e)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "unoin"}, "over must be one of"),
        ({"over": "forget"}, "over must be one of"),
        ({"along": "new"}, "along must be one of"),
        ({"rows": {"new": 0}}, r"rows\['new'\] must be one of"),
        ({"epochs": {"new": 1}}, r"epochs\['new'\] must be one of"),
        ({"num_steps": 3}, "one of num_epochs and num_steps"),
        ({"num_epochs": None}, "one of num_epochs and num_steps"),
        ({"num_epochs": 0}, "num_epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"parts": {}}, "parts must be some of"),
        ({"parts": {"forget": {"inputs": np.ones(2), "part": np.ones(2)}}}, "no column 'part'"),
        ({"cache_teachers": True}, "cache_teachers must be several names, .* got True"),
        ({"cache_teachers": "value"}, "cache_teachers must be several names"),
    ],
)
def test_the_loop_names_what_is_not_allowed(options, message):
    given = {"parts": {"forget": batch_of(inputs=[1.0])}, "over": "union"}
    given |= {"batch_size": 1, "num_epochs": 1, "teachers": {"fixed": START}} | options
    objective = objectives.combine(forget=[(1.0, objectives.task_loss)])
    with pytest.raises(ValueError, match=message):
        unlearning.descend_parts(
            objective, optax.sgd(0.1), jax.random.key(0), SCALAR, START, **given
        )
