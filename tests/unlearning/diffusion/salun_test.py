import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.unlearning.diffusion import toy
from unlearnjax import tasks, unlearning
from unlearnjax.types import PARTS, Request
from unlearnjax.unlearning import saliency
from unlearnjax.unlearning.diffusion import salun

PROCESS = toy.PROCESS._replace(shape=(2, 2, 1), prediction="v", clip=1.0)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    task = toy.network_task(PROCESS)
    forget = toy.images(rng, [1, 1, 1, 0], PROCESS)
    retain = toy.images(rng, [0, 2, 2, 0, 2, 0], PROCESS, first=4)
    variables = task.init(jax.random.key(0), forget)
    return task, variables, Request(forget, retain)


def batch_of(request, anchors):
    """Both parts one after another, as a step has them."""
    parts = {"forget": request.forget, "retain": request.retain}
    joined = {
        name: jnp.concatenate([part[name] for part in parts.values()]) for name in request.forget
    }
    places = [jnp.full(len(part["index"]), PARTS.index(name)) for name, part in parts.items()]
    return {**joined, "part": jnp.concatenate(places), "anchor.condition": jnp.asarray(anchors)}


@functools.partial(jax.jit, static_argnums=(0, 3))
def outputs_of(task, variables, batch, train=False):
    return task.apply(variables, batch, jax.random.key(0) if train else None, train)[0]


def said(task, variables, batch, train=False):
    return np.asarray(outputs_of(task, variables, batch, train)["prediction"])


def test_the_objective_is_the_distance_to_another_condition_and_the_retain_loss(problem):
    """Means over pixels and over each part; the student in training mode on both sides."""
    _, variables, request = problem
    task = toy.network_task(PROCESS, in_training=2.0)  # says twice as much in training
    anchors = [2, 2, 2, 1] + [0] * 6
    batch = batch_of(request, anchors)
    losses = toy.losses_of(salun.replacing(0.7), task, variables, batch)
    drawn = toy.drawn(task, batch, True)
    other = said(task, variables, {**drawn, "condition": batch["anchor.condition"]}, True)
    own = outputs_of(task, variables, drawn, True)
    forget = ((np.asarray(own["prediction"]) - other) ** 2).mean((1, 2, 3))[:4]
    retain = np.asarray(task.loss(own, drawn))[4:]
    # Of 10 rows: a part's mean times 10 is the sum over rows of what they are here.
    np.testing.assert_allclose(losses[:4], forget * 10 / 4, rtol=1e-5)
    np.testing.assert_allclose(losses[4:], 0.7 * retain * 10 / 6, rtol=1e-5)


def test_the_gradient_is_that_of_the_one_side_and_zero_where_conditions_agree(problem):
    task, variables, request = problem
    batch = batch_of(request, [2, 2, 2, 1] + [0] * 6)
    drawn = toy.drawn(task, batch, True)
    other = said(task, variables, {**drawn, "condition": batch["anchor.condition"]})

    def by_hand(params):
        own = task.apply({"params": params}, drawn, None, False)[0]["prediction"]
        return jnp.mean((own[:4] - other[:4]) ** 2)

    def ours(params, batch, retain_weight=0.0):
        objective = salun.replacing(retain_weight)
        losses = toy.losses_of(objective, task, {"params": params}, batch)
        return losses.mean()

    expected = jax.jit(jax.grad(by_hand))(variables["params"])
    gradient_on = jax.jit(jax.grad(ours))
    found = gradient_on(variables["params"], batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found)) > 1e-3
    same = {**batch, "anchor.condition": batch["condition"]}
    still = gradient_on(variables["params"], same)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(still))


def test_both_sides_drop_their_conditions_apart(problem):
    """Where all of a side are dropped the other one's are, too: nothing is left to learn."""
    _, variables, request = problem
    batch = batch_of(request, [2, 2, 2, 1] + [0] * 6)
    always = toy.network_task(PROCESS, condition_dropout=1.0)
    losses = toy.losses_of(salun.replacing(0.0), always, variables, batch)
    assert not np.asarray(losses).any()
    many = {name: jnp.repeat(value, 100, axis=0) for name, value in batch.items()}
    many["index"] = jnp.arange(1000)
    half = toy.network_task(PROCESS, condition_dropout=0.5)
    losses = np.asarray(toy.losses_of(salun.replacing(0.0), half, variables, many))[:400]
    # Both dropped: 1/4 of the rows.
    assert 0.17 < (losses == 0).mean() < 0.33


def test_the_mask_is_of_the_guided_loss_in_evaluation_mode(problem):
    _, variables, request = problem
    task = toy.network_task(PROCESS, in_training=2.0)
    guided = salun.guided_task(task, 3.0, PROCESS.null)
    number, n = task.num_draws, len(request.forget["index"])

    def by_hand(params):
        """The published `(1 + w) e_c - w e_0` with w = 2, draw by draw."""
        single = tasks.expected(task)
        seen = single.apply({"params": params}, request.forget, None, False)[0]
        blank = {**request.forget, "condition": jnp.full(n, PROCESS.null)}
        free = single.apply({"params": params}, blank, None, False)[0]["prediction"]
        mixed = 3 * seen["prediction"] - 2 * free
        assert mixed.shape == (n, number, *PROCESS.shape)
        return jnp.mean((mixed - seen["target"]) ** 2)

    gradient = jax.jit(jax.grad(by_hand))(variables["params"])
    flat = np.abs(np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient)]))
    masked = jax.jit(lambda v, keep: saliency.mask(guided, v, request, keep))
    for keep in (0.5, 0.25):
        mask = masked(variables, keep)
        chosen = np.concatenate([np.ravel(m) for m in jax.tree.leaves(mask)]) > 0
        assert chosen.sum() == round(keep * flat.size)
        assert flat[chosen].min() >= flat[~chosen].max() * (1 - 1e-4)
    drawn = toy.drawn(task, request.forget, False)
    found = np.asarray(outputs_of(guided, variables, drawn)["noise"])
    under = lambda c: outputs_of(task, variables, {**drawn, "condition": jnp.full(n, c)})["noise"]
    expected = 3 * np.asarray(under(1)) - 2 * np.asarray(under(PROCESS.null))
    np.testing.assert_allclose(found[:3], expected[:3], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_what_is_not_salient_stays_bit_equal_and_the_condition_becomes_the_next(problem):
    task, variables, request = problem
    only = {name: value[:3] for name, value in request.forget.items()}  # condition 1
    request = request._replace(forget=only)
    method = unlearning.salun_diffusion(
        optax.adam(1e-2), PROCESS, num_steps=60, batch_size=8, retain_weight=0.1
    )
    assert method.needs == {"forget", "retain", "inputs"}
    method = unlearning.enforce(method)
    updated = jax.jit(lambda key: method.update(key, task, variables, (), request)[0])(
        jax.random.key(0)
    )
    guided = salun.guided_task(task, 3.0, PROCESS.null)
    mask = saliency.mask(guided, variables, request, 0.5)
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    changed = flat(updated["params"]) != flat(variables["params"])
    # Nothing drops a condition here, so the null one's parameters have no gradient.
    assert not changed[flat(mask) == 0].any() and changed.sum() > 0.35 * changed.size
    drawn = toy.drawn(task, only, False)

    def apart(model, anchor):
        other = said(task, model, {**drawn, "condition": jnp.full(3, anchor)})
        return ((said(task, model, drawn) - other) ** 2).mean()

    assert apart(updated, 2) < 0.1 * apart(variables, 2)


def test_every_argument_reaches_the_loop(problem, monkeypatch):
    task, variables, request = problem
    seen = {}

    def descend(objective, tx, **options):
        def update(rng, task, variables, memory, request):
            seen.update(options, request=request)
            return variables, memory

        return unlearning.retrain(tx, num_epochs=1, batch_size=1)._replace(update=update)

    def replacing(weight):
        seen["retain_weight"] = weight

    def salient(tx, keep, of):
        seen.update(keep=keep, of=of)
        return tx

    monkeypatch.setattr(salun, "descend", descend)
    monkeypatch.setattr(saliency, "salient", salient)
    monkeypatch.setattr(salun, "guided_task", lambda task, scale, null: (scale, null))
    monkeypatch.setattr(salun, "replacing", replacing)
    for anchor, becomes in ((None, [2, 2, 2, 1]), (2, [2, 2, 2, 2])):
        method = unlearning.salun_diffusion(
            optax.sgd(0.1), PROCESS, anchor=anchor, num_steps=7, batch_size=5
        )
        method.update(None, task, variables, (), request)
        assert seen["request"].forget["anchor.condition"].tolist() == becomes
        np.testing.assert_array_equal(
            seen["request"].forget["condition"], request.forget["condition"]
        )
    assert seen["over"] == "paired" and seen["num_steps"] == 7 and seen["batch_size"] == 5
    assert seen["keep"] == 0.5 and seen["of"](task) == (3.0, PROCESS.null)  # published, too
    # The published 1e-3 times the pixels of CIFAR-10.
    assert seen["labels"] is False and seen["retain_weight"] == pytest.approx(3.072, abs=5e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"anchor": 3}, "anchor must be a condition in 0..2, got 3"),
        ({"keep": 0.0}, r"keep must lie in \(0, 1\], got 0.0"),
        ({"keep": 1.5}, r"keep must lie in \(0, 1\], got 1.5"),
        ({"retain_weight": -1.0}, "retain_weight must be >= 0, got -1.0"),
        ({"retain_weight": float("inf")}, "retain_weight must be finite, got inf"),
        ({"guidance": float("nan")}, "guidance must be finite, got nan"),
        ({"guidance": "a"}, "guidance must be a number, got 'a'"),
    ],
)
def test_bad_values_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.salun_diffusion(optax.sgd(0.1), PROCESS, **options)


def test_bad_requests_are_refused_before_any_compute(problem):
    task, variables, request = problem
    method = unlearning.salun_diffusion(optax.sgd(0.1), PROCESS, anchor=1)
    with pytest.raises(ValueError, match="anchor must differ from what is forgotten, got 1"):
        method.update(None, task, variables, (), request)
    bare = Request({"condition": np.array([0]), "index": np.array([0])}, request.retain)
    with pytest.raises(ValueError, match="this unlearner needs 'inputs' of 'forget'"):
        unlearning.enforce(method).update(None, task, variables, (), bare)
