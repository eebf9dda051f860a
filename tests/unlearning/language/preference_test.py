"""NPO and its relatives against the closed forms of their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning.language import toy
from unlearnjax import unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.language import answers, preference

SGD = optax.sgd(1.0)
REQUEST, GIVEN = toy.problem()
ORIGINAL = REQUEST.original
ANSWER = np.asarray(REQUEST.forget["answer"], np.float64)
LENGTH = ANSWER.sum(-1)


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
    method = unlearning.npo(
        SGD, beta=beta, retain=retain, retain_weight=0.3, per=per, **toy.ONE_STEP
    )
    gain = summed(GIVEN) - summed(ORIGINAL)
    length = LENGTH if per == "token" else np.ones_like(LENGTH)
    expected = weighted(weight(beta, gain / length) / length)
    expected = toy.added(expected, retained(retain, 0.3))
    parts = {"forget", "retain"} if retain else {"forget"}
    assert method.needs == parts | {"inputs", "labels"}
    request = REQUEST if retain else REQUEST._replace(retain=None)
    problems.assert_trees_close(toy.slope(method, request, GIVEN), expected, 1e-5)


def test_defaults_are_the_published_ones():
    method = unlearning.npo(SGD, **toy.ONE_STEP)
    expected = weighted(weight(0.1, summed(GIVEN) - summed(ORIGINAL)))
    expected = toy.added(expected, retained("nll", 1.0))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)
    method = unlearning.simnpo(SGD, **toy.ONE_STEP)
    expected = weighted(weight(4.5, summed(GIVEN) / LENGTH) / LENGTH)
    expected = toy.added(expected, retained("nll", 8.0))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


@pytest.mark.parametrize("beta", [0.01, 1.0, 20.0])
def test_at_the_original_npo_is_ascent_whatever_beta(beta):
    outputs, _ = toy.TASK.apply(GIVEN, REQUEST.forget, None, False)
    term = preference.negative_preference(beta)

    def value(log_probs):
        own = {"log_probs": log_probs}
        return term(toy.TASK, own, REQUEST.forget, {"original": outputs})

    np.testing.assert_allclose(value(outputs["log_probs"]), 2 / beta * np.log(2), rtol=1e-6)
    found = jax.grad(lambda x: value(x).sum())(outputs["log_probs"])
    np.testing.assert_allclose(found, ANSWER, rtol=1e-6)


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
    outputs, _ = toy.TASK.apply(GIVEN, REQUEST.forget, None, False)
    flat = {"log_probs": jnp.full_like(outputs["log_probs"], -0.4)}
    npo = preference.negative_preference(2.5, "token")
    simple = preference.simple_preference(2.5, 0.4)
    given = (toy.TASK, outputs, REQUEST.forget)
    np.testing.assert_allclose(simple(*given, {}), npo(*given, {"original": flat}), rtol=1e-6)
    expected = 2 / 2.5 * np.log1p(np.exp(2.5 * (summed(GIVEN) / LENGTH + 0.4)))
    np.testing.assert_allclose(simple(*given, {}), expected, rtol=1e-5)


def test_simnpo_is_its_closed_form():
    method = unlearning.simnpo(
        SGD, beta=1.5, gamma=-0.5, retain="kl", retain_weight=0.2, **toy.ONE_STEP
    )
    expected = weighted(weight(1.5, summed(GIVEN) / LENGTH - 0.5) / LENGTH)
    expected = toy.added(expected, retained("kl", 0.2))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


@pytest.mark.parametrize("per", ["sequence", "token"])
def test_dpo_goes_from_the_answer_to_the_refusal(per):
    beta, refusals = 0.6, toy.viewed(REQUEST.forget, "refusal")
    method = unlearning.dpo(SGD, beta=beta, retain_weight=0.5, per=per, **toy.ONE_STEP)
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
    method = unlearning.dpo(SGD, retain=None, **toy.ONE_STEP)
    found = toy.slope(method, request, GIVEN)
    problems.assert_trees_close(found, toy.scaled(0.0, GIVEN["params"]), atol=1e-6)


def test_idk_learns_refusals():
    method = unlearning.idk(SGD, retain_weight=0.5, **toy.ONE_STEP)
    refusals = toy.viewed(REQUEST.forget, "refusal")
    expected = toy.added(toy.nll_slope(GIVEN, refusals), retained("nll", 0.5))
    problems.assert_trees_close(toy.slope(method, REQUEST, GIVEN), expected, 1e-5)


def test_gradients_of_npo_on_random_features_are_central_differences():
    """The study of the paper: features of Gaussians, of which the last layer alone learns."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        features = np.maximum(rng.normal(size=(5, 16)) @ rng.normal(size=(16, 8)) / 4, 0)
        targets, original = jnp.asarray(rng.integers(2, size=5)), rng.normal(size=(8, 2))
        term = preference.negative_preference(0.5)

        def value(w):
            said = [{"logits": jnp.asarray(features) @ x, "log_probs": None} for x in (w, original)]
            own, other = (
                {"log_probs": answers._label_log_probs(o, {"targets": targets})} for o in said
            )
            return term(None, own, {"targets": targets}, {"original": other}).mean()

        w, step = rng.normal(size=(8, 2)), 1e-5
        found = np.asarray(jax.grad(value)(jnp.asarray(w)))
        for place in [(0, 0), (3, 1), (7, 0)]:
            bump = np.zeros_like(w)
            bump[place] = step
            slope = (value(w + bump) - value(w - bump)) / (2 * step)
            np.testing.assert_allclose(found[place], slope, rtol=1e-6, atol=1e-9)


def test_under_ascent_a_classifiers_logit_falls_linearly_and_under_npo_as_a_logarithm():
    """Of one example, with the margin as only parameter: `m' = -1` and `m' = -2 e^(beta m)`."""
    from unlearnjax import tasks

    task = tasks.classification(
        tasks.Model(
            lambda rng, batch: {"params": jnp.zeros(())},
            lambda v, batch, rng, train: (
                {"logits": batch["inputs"] * jnp.stack([v["params"], 0 * v["params"]])},
                v,
            ),
        )
    )
    forget = {"inputs": jnp.ones((1, 1)), "targets": jnp.zeros(1, jnp.int32)}

    @jax.jit
    def margins(start):
        def after(method):
            return method.update(jax.random.key(0), task, {"params": start}, (), Request(forget))[
                0
            ]["params"]

        options = {"retain": None, "batch_size": 1}
        steps = (1000, 2000, 4000)
        rate = optax.sgd(0.1)
        return [
            [after(unlearning.grad_diff(rate, num_steps=n, **options)) for n in steps],
            [after(unlearning.npo(rate, beta=1.0, num_steps=n, **options)) for n in steps],
        ]

    ascent, npo = (-np.array(m, np.float64) for m in margins(jnp.zeros(())))
    np.testing.assert_allclose(np.diff(ascent), [100, 200], rtol=0.01)
    np.testing.assert_allclose(np.diff(npo), np.log([2, 2]), rtol=0.05)


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
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["dpo", "idk"])
@pytest.mark.parametrize("column", ["inputs", "targets", "answer"])
def test_a_missing_refusal_is_named(name, column):
    forget = {k: v for k, v in REQUEST.forget.items() if k != f"refusal.{column}"}
    method = getattr(unlearning, name)(SGD)
    with pytest.raises(ValueError, match=f"forget must have the column 'refusal.{column}'"):
        method.update(jax.random.key(0), toy.TASK, GIVEN, (), REQUEST._replace(forget=forget))
