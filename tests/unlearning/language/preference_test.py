"""NPO and its relatives against the closed forms of their gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tests import problems
from tests.unlearning import linear
from tests.unlearning.language import toy
from unlearnjax import tasks, unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.language import answers, preference

SGD = optax.sgd(1.0)
REQUEST, GIVEN = toy.problem()
ORIGINAL = REQUEST.original
ANSWER = np.asarray(REQUEST.forget["answer"], np.float64)
LENGTH = ANSWER.sum(-1)


@pytest.fixture(autouse=True)
def one_step_on_all_rows(monkeypatch):
    monkeypatch.setattr(answers, "descend", toy.whole_step)


def summed(model, data=REQUEST.forget):
    return (toy.said(model, data)["log_probs"] * np.asarray(data["answer"])).sum(-1)


def weighted(weights, data=REQUEST.forget):
    """The gradient of `mean weight log p`."""
    return toy.pulled(
        "log_probs", GIVEN, data, weights[:, None] * np.asarray(data["answer"]) / len(weights)
    )


def weight(beta, gain):
    """W = 2 p^beta / (p^beta + p_0^beta)."""
    return 2 * np.exp(beta * gain) / (np.exp(beta * gain) + 1)


def retained(retain, factor):
    if retain is None:
        return toy.scaled(0.0, GIVEN["params"])
    of = {
        "nll": lambda: toy.nll_slope(GIVEN, REQUEST.retain),
        "kl": lambda: toy.kl_slope(GIVEN, ORIGINAL, REQUEST.retain),
    }
    return toy.scaled(factor, of[retain]())


@pytest.mark.parametrize(
    "retain, per", [("nll", "sequence"), ("kl", "sequence"), (None, "sequence"), (None, "token")]
)
def test_npo_is_ascent_weighted_by_w(retain, per):
    beta = 0.7
    method = unlearning.npo(SGD, beta=beta, retain=retain, retain_weight=0.3, per=per)
    gain = summed(GIVEN) - summed(ORIGINAL)
    length = LENGTH if per == "token" else np.ones_like(LENGTH)
    expected = weighted(weight(beta, gain / length) / length)
    expected = toy.added(expected, retained(retain, 0.3))
    parts = {"forget", "retain"} if retain else {"forget"}
    assert method.needs == parts | {"inputs", "labels"}
    request = REQUEST if retain else REQUEST._replace(retain=None)
    problems.assert_trees_close(toy.slope(method, request, GIVEN), expected, 1e-5)


def test_defaults_are_the_published_ones():
    method = unlearning.npo(SGD)
    expected = weighted(weight(0.1, summed(GIVEN) - summed(ORIGINAL)))
    expected = toy.added(expected, retained("nll", 1.0))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)
    method = unlearning.simnpo(SGD)
    expected = weighted(weight(4.5, summed(GIVEN) / LENGTH) / LENGTH)
    expected = toy.added(expected, retained("nll", 8.0))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


def test_at_the_original_npo_is_ascent_whatever_beta():
    def value(log_probs, beta):
        said = {"original": {"log_probs": jax.lax.stop_gradient(log_probs)}}
        term = preference.negative_preference(beta)
        return term(toy.TASK, {"log_probs": log_probs}, REQUEST.forget, said)

    def both(beta):
        slope = jax.grad(lambda x: value(x, beta).sum())
        return value(log_probs, beta), slope(log_probs)

    log_probs = jnp.asarray(toy.said(GIVEN, REQUEST.forget)["log_probs"], jnp.float32)
    betas = np.array([0.01, 1.0, 20.0])
    values, slopes = jax.jit(jax.vmap(both))(betas.astype(np.float32))
    np.testing.assert_allclose(values, np.tile(2 / betas * np.log(2), (4, 1)).T, rtol=1e-6)
    np.testing.assert_allclose(slopes, np.stack([ANSWER] * 3), rtol=1e-6)


def test_npo_becomes_ascent_as_beta_vanishes():
    """`L - (2 / beta) ln 2 -> D`, with an error that shrinks as beta does."""
    with jax.enable_x64(True):
        own, other = jnp.array([[-3.0]]), jnp.array([[-1.0]])
        batch = {"answer": jnp.ones((1, 1))}

        def error(beta):
            term = preference.negative_preference(beta)
            value = term(None, {"log_probs": own}, batch, {"original": {"log_probs": other}})
            return abs(float(value[0]) - 2 / beta * np.log(2) + 2.0)

        assert error(1e-3) < 2e-3
        np.testing.assert_allclose(error(1e-3) / error(1e-4), 10, rtol=1e-3)


def test_simnpo_is_npo_per_token_with_a_margin_in_the_place_of_the_original():
    outputs = {"log_probs": jnp.asarray(toy.said(GIVEN, REQUEST.forget)["log_probs"], jnp.float32)}
    flat = {"log_probs": jnp.full_like(outputs["log_probs"], -0.4)}
    npo = preference.negative_preference(2.5, "token")
    simple = preference.simple_preference(2.5, 0.4)
    given = (toy.TASK, outputs, REQUEST.forget)
    np.testing.assert_allclose(simple(*given, {}), npo(*given, {"original": flat}), rtol=1e-6)
    expected = 2 / 2.5 * np.log1p(np.exp(2.5 * (summed(GIVEN) / LENGTH + 0.4)))
    np.testing.assert_allclose(simple(*given, {}), expected, rtol=1e-5)


def test_simnpo_is_its_closed_form():
    method = unlearning.simnpo(SGD, beta=1.5, gamma=-0.5, retain="kl", retain_weight=0.2)
    expected = weighted(weight(1.5, summed(GIVEN) / LENGTH - 0.5) / LENGTH)
    expected = toy.added(expected, retained("kl", 0.2))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_dpo_goes_from_the_answer_to_the_refusal(per):
    beta, refusals = 0.6, toy.viewed(REQUEST.forget, "refusal")
    method = unlearning.dpo(SGD, beta=beta, retain_weight=0.5, per=per)
    length = [np.asarray(d["answer"]).sum(-1) for d in (REQUEST.forget, refusals)]
    if per == "sequence":
        length = [np.ones(len(ANSWER))] * 2
    gains = [
        (summed(GIVEN, d) - summed(ORIGINAL, d)) / n
        for d, n in zip((REQUEST.forget, refusals), length, strict=True)
    ]
    pull = weight(beta, gains[0] - gains[1])
    expected = toy.added(
        weighted(pull / length[0]), weighted(-pull / length[1], refusals), retained("nll", 0.5)
    )
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


def test_dpo_between_an_answer_and_itself_does_nothing():
    own = {f"refusal.{k}": REQUEST.forget[k] for k in ("inputs", "targets", "answer")}
    request = REQUEST._replace(forget={**REQUEST.forget, **own})
    method = unlearning.dpo(SGD, retain=None)
    found = toy.slope(method, request, GIVEN)
    problems.assert_trees_close(found, toy.scaled(0.0, GIVEN["params"]), atol=1e-6)


def test_idk_learns_refusals():
    method = unlearning.idk(SGD, retain_weight=0.5)
    refusals = toy.viewed(REQUEST.forget, "refusal")
    expected = toy.added(toy.nll_slope(GIVEN, refusals), retained("nll", 0.5))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


def stacked(number=2):
    """The request with several refusals of each question."""
    sets = [toy.answers(np.random.default_rng(5 + seed), 4) for seed in range(number)]
    columns = ("inputs", "targets", "answer")
    views = {f"refusal.{k}": jnp.stack([own[k] for own in sets], axis=1) for k in columns}
    return REQUEST._replace(forget={**REQUEST.forget, **views}), sets


@pytest.mark.parametrize("name", ["dpo", "idk"])
def test_of_several_refusals_one_is_drawn_for_each_question(name):
    request, sets = stacked()
    found = toy.slope(getattr(unlearning, name)(SGD, retain_weight=0.0), request, GIVEN)
    slopes = []  # of the four questions by themselves, with either refusal
    for own in sets:
        gains = [summed(GIVEN, d) - summed(ORIGINAL, d) for d in (REQUEST.forget, own)]
        for row in range(4):
            alone = (np.arange(4) == row).astype(float)
            if name == "idk":
                slopes.append(weighted(-alone / np.asarray(own["answer"]).sum(-1), own))
            else:
                pull = alone * weight(0.1, gains[0] - gains[1])
                slopes.append(toy.added(weighted(pull), weighted(-pull, own)))
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    pairs = np.stack([flat(own) for own in slopes]).reshape(2, 4, -1)
    each = [pairs[list(chosen), range(4)].sum(0) for chosen in itertools.product((0, 1), repeat=4)]
    apart = np.array([np.abs(own - flat(found)).max() for own in each])
    assert apart.min() < 1e-5 and np.sort(apart)[1] > 1e-3


def test_refusals_are_drawn_anew_and_whole():
    request, sets = stacked(3)
    data = {**request.forget, "original.refusal.log_probs": request.forget["refusal.targets"] * 2}
    task = answers.drawing(toy.TASK._replace(num_draws=0), "refusal")
    draw = lambda step: tasks.drawn(task, tasks.keyed(data, jax.random.key(step)))
    drawn = [draw(step) for step in range(90)]
    found = np.stack([own["refusal.targets"] for own in drawn])
    rows = np.stack([own["targets"] for own in sets], axis=1)
    same = (found[:, :, None] == rows).all(-1)
    assert (same.sum(-1) == 1).all()
    np.testing.assert_allclose(same.mean(0), 1 / 3, atol=0.2)
    chosen = same.argmax(-1)
    assert len(np.unique(chosen, axis=0)) > 40  # each by itself
    for step, own in enumerate(drawn[:5]):
        for name in ("inputs", "answer"):
            expected = [sets[k][name][row] for row, k in enumerate(chosen[step])]
            np.testing.assert_array_equal(own[f"refusal.{name}"], expected)
        doubled = 2 * own["refusal.targets"]
        np.testing.assert_array_equal(own["original.refusal.log_probs"], doubled)
        np.testing.assert_array_equal(own["targets"], data["targets"])


def test_what_a_task_draws_itself_is_drawn_after_the_refusal():
    request, _ = stacked()
    own = lambda rng, example, train: {**example, "seen": example["refusal.targets"]}
    task = answers.drawing(toy.TASK._replace(draw=own), "refusal")
    found = tasks.drawn(task, tasks.keyed(request.forget, jax.random.key(0)))
    np.testing.assert_array_equal(found["seen"], found["refusal.targets"])


@pytest.mark.parametrize("name", ["dpo", "idk"])
def test_a_refusal_of_a_label_is_another_label(name):
    request, given, original = linear.problem()
    other = (request.forget["targets"] + 1) % linear.CLASSES
    forget = {**request.forget, "refusal.targets": other}
    request = Request(forget, original=original)
    w, y = linear.weights(given), np.asarray(forget["targets"])
    slopes = [linear.cross_entropy_slopes(w, forget, labels) for labels in (other, y)]
    if name == "dpo":
        x = np.asarray(forget["inputs"], np.float64)
        own, old = (scipy.special.log_softmax(x @ m, axis=1) for m in (w, linear.weights(original)))
        gain, rows = own - old, np.arange(len(y))
        pull = weight(0.5, gain[rows, y] - gain[rows, np.asarray(other)])
        expected = (pull[:, None, None] * (slopes[0] - slopes[1])).mean(0)
    else:
        expected = slopes[0].mean(0)
    options = {"beta": 0.5} if name == "dpo" else {}
    method = getattr(unlearning, name)(SGD, retain=None, **options)
    found = toy.slope(method, request, given, linear.TASK)["w"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_npo_on_random_features_descends_what_central_differences_say():
    """The study of the paper: features of Gaussians, of which the last layer alone learns."""
    rng = np.random.default_rng(0)
    features = np.maximum(rng.normal(size=(5, 16)) @ rng.normal(size=(16, linear.FEATURES)) / 4, 0)
    targets = rng.integers(linear.CLASSES, size=5)
    models = rng.normal(size=(2, linear.FEATURES, linear.CLASSES))

    def value(w):
        own, other = (
            scipy.special.log_softmax(features @ x, axis=1)[np.arange(5), targets]
            for x in (w, models[1])
        )
        return np.mean(2 / 0.5 * np.log1p(np.exp(0.5 * (own - other))))

    with jax.enable_x64(True):
        given, original = ({"params": {"w": jnp.asarray(w)}} for w in models)
        forget = {"inputs": jnp.asarray(features), "targets": jnp.asarray(targets)}
        method = unlearning.npo(SGD, beta=0.5, retain=None)
        request = Request(forget, original=original)
        found = np.asarray(toy.slope(method, request, given, linear.TASK)["w"])
    for place in np.ndindex(*found.shape):
        bump = np.zeros_like(found)
        bump[place] = 1e-5
        slope = (value(models[0] + bump) - value(models[0] - bump)) / 2e-5
        np.testing.assert_allclose(found[place], slope, rtol=1e-6, atol=1e-9)


def test_under_ascent_a_margin_falls_linearly_and_under_npo_as_a_logarithm(monkeypatch):
    """Of one example, with its margin as only parameter: `m' -> -1` and `m' -> -4 e^m`."""

    def apply(variables, batch, rng, train):
        del rng, train
        margin = variables["params"]
        return {"logits": batch["inputs"] * jnp.stack([margin, jnp.zeros(())])}, variables

    monkeypatch.undo()
    task = tasks.classification(tasks.Model(None, apply))
    request = Request({"inputs": jnp.ones((1, 1)), "targets": jnp.zeros(1, jnp.int32)})
    options = {"retain": None, "num_steps": 400, "batch_size": 1}

    @jax.jit
    @jax.vmap
    def margins(rate):
        start = {"params": jnp.zeros(())}
        methods = (unlearning.grad_diff, functools.partial(unlearning.npo, beta=1.0))
        made = (method(optax.sgd(rate), **options) for method in methods)
        return [m.update(jax.random.key(0), task, start, (), request)[0]["params"] for m in made]

    rates = np.array([0.05, 0.1, 0.2])  # for times 20, 40, 80
    ascent, npo = margins(jnp.asarray(rates, jnp.float32))
    np.testing.assert_allclose(np.diff(ascent), [-20, -40], rtol=0.01)
    expected = np.zeros(3)
    for _ in range(400):
        p = 1 / (1 + np.exp(-expected))
        expected -= rates * 2 * p / (p + 0.5) * (1 - p)
    np.testing.assert_allclose(npo, expected, rtol=1e-4)
    np.testing.assert_allclose(np.diff(npo), -np.log([2, 2]), rtol=0.2)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: unlearning.npo(SGD, beta=0.0), "beta must be > 0"),
        (lambda: unlearning.npo(SGD, beta=np.inf), "beta must be finite"),
        (lambda: unlearning.npo(SGD, per="word"), "per must be one of"),
        (lambda: unlearning.dpo(SGD, beta=-1.0), "beta must be > 0"),
        (lambda: unlearning.dpo(SGD, per=None), "per must be one of"),
        (lambda: unlearning.simnpo(SGD, beta=0.0), "beta must be > 0"),
        (lambda: unlearning.simnpo(SGD, beta=np.inf), "beta must be finite"),
        (lambda: unlearning.simnpo(SGD, gamma=np.nan), "gamma must be finite"),
        (lambda: unlearning.npo(SGD, retain="rt"), "retain must be one of"),
        (lambda: unlearning.npo(SGD, retain_weight=-1.0), "retain_weight must be >= 0"),
        (lambda: unlearning.npo(SGD, retain_weight=np.inf), "retain_weight must be finite"),
        (lambda: unlearning.idk(SGD, num_steps=0), "num_steps must be >= 1"),
    ],
)
def test_bad_values_are_named_at_construction(call, message, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["dpo", "idk"])
@pytest.mark.parametrize("column", ["inputs", "targets", "answer"])
def test_a_missing_refusal_is_named(name, column):
    forget = {k: v for k, v in REQUEST.forget.items() if k != f"refusal.{column}"}
    method = getattr(unlearning, name)(SGD)
    with pytest.raises(ValueError, match=f"forget must have the column 'refusal.{column}'"):
        method.update(jax.random.key(0), toy.TASK, GIVEN, (), REQUEST._replace(forget=forget))
