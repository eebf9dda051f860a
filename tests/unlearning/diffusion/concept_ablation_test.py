import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.unlearning.diffusion import toy
from unlearnjax import diffusion, tasks, unlearning
from unlearnjax.types import PARTS, Request
from unlearnjax.unlearning.diffusion import concept_ablation

PROCESS = toy.PROCESS._replace(shape=(2, 2, 1), clip=None)
TASK = toy.gaussian_task(PROCESS, sampler=diffusion.ddim(PROCESS, 5))
MEAN, VAR = np.array([0.5, -0.5, 0.2, 0.0]), np.array([0.2, 0.1, 0.3, 1.0])
START = jax.tree.map(lambda x: x.astype(jnp.float32), toy.variables_of(MEAN, np.log(VAR)))
REQUEST = Request({"condition": jnp.zeros(7, jnp.int32), "targets": jnp.zeros(7)})


def rows(rng, anchors):
    batch = toy.images(rng, [0, 0, 1, 1], PROCESS)
    part = jnp.full(4, PARTS.index("forget"))
    return {**batch, "part": part, "anchor.condition": jnp.asarray(anchors)}


def test_the_objective_is_the_distance_to_the_anchor_and_the_anchors_own_loss(rng):
    teacher = toy.variables_of(MEAN + 0.3, np.log(VAR))
    batch = rows(rng, [1, 2, 2, 0])
    drawn = toy.drawn(TASK, batch, False)
    at_anchor = {**drawn, "condition": batch["anchor.condition"]}
    own = TASK.apply(START, drawn, None, False)[0]["noise"]
    for name, model in (("original", teacher), (None, START)):
        objective = concept_ablation.ablating(name, 0.4)
        losses = toy.losses_of(objective, TASK, START, batch, {"original": teacher})
        told = TASK.apply(model, at_anchor, None, False)[0]["noise"]
        anchored = TASK.apply(START, at_anchor, None, False)[0]["noise"]
        expected = np.mean((own - told) ** 2, axis=(1, 2, 3))
        expected += 0.4 * np.mean((anchored - drawn["noise"]) ** 2, axis=(1, 2, 3))
        np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("teacher", ["original", None])
def test_where_the_anchor_is_the_target_nothing_is_to_be_learned(rng, teacher):
    batch = rows(rng, [0, 0, 1, 1])
    objective = concept_ablation.ablating(teacher, 0.0)
    loss = lambda v, batch: toy.losses_of(objective, TASK, v, batch, {"original": START}).sum()
    gradient_on = jax.jit(jax.grad(loss))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient_on(START, batch)))
    other = {**batch, "anchor.condition": jnp.array([1, 2, 2, 0])}
    gradient = gradient_on(START, other)["params"]["mean"]
    # The teacher has no gradient: condition 2 is an anchor alone.
    assert np.asarray(gradient[:2]).all() and not gradient[2]


@pytest.mark.slow
@pytest.mark.parametrize("teacher, anchor_weight", [("original", 1.0), ("student", 0.0)])
def test_the_forgotten_condition_becomes_the_anchor_without_any_image(teacher, anchor_weight):
    method = unlearning.concept_ablation(
        optax.adam(0.05),
        PROCESS,
        teacher=teacher,
        anchor_weight=anchor_weight,
        num_images=24,
        num_steps=150,
    )
    assert method.needs == {"forget"}
    method = unlearning.enforce(method)
    updated = jax.jit(lambda key: method.update(key, TASK, START, (), REQUEST)[0])(
        jax.random.key(0)
    )
    mean, var = updated["params"]["mean"], np.exp(updated["params"]["log_var"])
    np.testing.assert_allclose(mean[0], MEAN[1], atol=0.03)
    np.testing.assert_allclose(var[0], VAR[1], rtol=0.2)
    assert (np.asarray(mean)[2:] == np.float32(MEAN)[2:]).all()
    # Its own loss moves the anchor to the mean of the images that were drawn of it.
    assert (mean[1] != np.float32(MEAN[1])) == (anchor_weight > 0)


def test_what_is_asked_for_is_what_the_objective_is_made_of(monkeypatch):
    asked = []
    monkeypatch.setattr(concept_ablation, "ablating", lambda *given: asked.append(given))
    for options in ({}, {"teacher": "student", "anchor_weight": 0.25}):
        method = unlearning.concept_ablation(optax.sgd(0.1), PROCESS, **options)
        assert method.needs == {"forget"}
    assert asked == [("original", 1.0), (None, 0.25)]


def test_images_are_the_originals_of_the_anchors(monkeypatch):
    seen = {}

    def replay(task, variables, rng, conditions):
        del task, rng
        seen.update(model=variables, conditions=conditions)
        n = conditions.shape[0]
        return {"inputs": jnp.zeros((n, *PROCESS.shape)), "index": jnp.arange(n)}

    def descend(objective, tx, **options):
        def update(rng, task, variables, memory, request):
            seen.update(options, forget=request.forget)
            return variables, memory

        return unlearning.retrain(tx, num_epochs=1, batch_size=1)._replace(update=update)

    monkeypatch.setattr(diffusion, "replay", replay)
    monkeypatch.setattr(concept_ablation, "descend", descend)
    other = toy.variables_of(MEAN + 1, np.log(VAR))

    def update(condition, original=None, **options):
        method = unlearning.concept_ablation(optax.sgd(0.0), PROCESS, num_images=8, **options)
        request = Request({"condition": condition}, original=original)
        method.update(jax.random.key(0), TASK, START, (), request)
        return seen["forget"]["condition"], seen["forget"]["anchor.condition"]

    named, anchors = update(jnp.array([0, 0, 0, 2]), other, anchor=1, num_steps=7, batch_size=4)
    assert seen["model"] is other and seen["conditions"].tolist() == [1] * 8 == anchors.tolist()
    assert named.tolist() == [0] * 6 + [2] * 2
    assert seen["over"] == "forget" and seen["num_steps"] == 7 and seen["batch_size"] == 4
    # Spread over the examples, whatever their order and number, in compiled code, too.
    named, anchors = jax.jit(update)(jnp.array([0, 0, 1, 2]))
    assert seen["model"] is START
    assert named.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert anchors.tolist() == [1, 1, 1, 1, 2, 2, 0, 0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"anchor": 3}, "anchor must be a condition in 0..2, got 3"),
        ({"teacher": "another"}, "teacher must be one of"),
        ({"num_images": 0}, "num_images must be >= 1"),
        ({"num_images": 2.5}, "num_images must be a whole number"),
        ({"anchor_weight": -1.0}, "anchor_weight must be >= 0, got -1.0"),
        ({"anchor_weight": float("inf")}, "anchor_weight must be finite, got inf"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.concept_ablation(optax.sgd(0.1), PROCESS, **options)


def test_a_forgotten_anchor_is_refused_before_any_compute():
    method = unlearning.concept_ablation(optax.sgd(0.1), PROCESS, anchor=0)
    with pytest.raises(ValueError, match=r"anchor must not be forgotten itself, got \[0\]"):
        method.update(None, TASK, START, (), REQUEST)
    assert tasks.generate(TASK, START, jax.random.key(0), REQUEST.forget)["images"].shape[0] == 7
