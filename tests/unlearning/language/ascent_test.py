"""Ascent, weighted by token, against the closed forms of its gradients."""

import numpy as np
import optax
import pytest

from tests import problems
from tests.unlearning.language import toy
from unlearnjax import unlearning
from unlearnjax.unlearning.language import answers

SGD = optax.sgd(1.0)
REQUEST, GIVEN = toy.problem()
ANSWER = np.asarray(REQUEST.forget["answer"], np.float64)
PER_TOKEN = ANSWER / ANSWER.sum(-1, keepdims=True) / len(ANSWER)


@pytest.fixture(autouse=True)
def one_step_on_all_rows(monkeypatch):
    monkeypatch.setattr(answers, "descend", toy.whole_step)


CASES = {
    "grad_diff": (unlearning.grad_diff, {}, lambda p: 1, 1.0),
    "ga_kl": (unlearning.grad_diff, {"retain": "kl", "retain_weight": 0.3}, lambda p: 1, 0.3),
    "of_sums": (
        unlearning.grad_diff,
        {"per": "sequence"},
        lambda p: ANSWER.sum(-1, keepdims=True),
        1.0,
    ),
    "wga": (unlearning.wga, {}, lambda p: p, 1.0),
    "wga_of_beta": (
        unlearning.wga,
        {"beta": 0.3, "retain_weight": 0.5, "retain": "kl"},
        lambda p: p**0.3,
        0.5,
    ),
    "satimp": (unlearning.satimp, {}, lambda p: p**5 * (1 - p), 10.0),
    "satimp_of_betas": (
        unlearning.satimp,
        {"beta1": 0.4, "beta2": 1.7, "retain_weight": 0.5, "retain": "kl"},
        lambda p: p**0.4 * (1 - p) ** 1.7,
        0.5,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tokens_are_weighted_by_their_probability_without_gradient(name):
    build, options, weight, retain_weight = CASES[name]
    p = np.exp(toy.said(GIVEN, REQUEST.forget)["log_probs"])
    expected = toy.pulled("log_probs", GIVEN, REQUEST.forget, weight(p) * PER_TOKEN)
    if options.get("retain") == "kl":
        kept = toy.kl_slope(GIVEN, REQUEST.original, REQUEST.retain)
    else:
        kept = toy.nll_slope(GIVEN, REQUEST.retain)
    expected = toy.added(expected, toy.scaled(retain_weight, kept))
    problems.assert_trees_close(toy.slope(build(SGD, **options), REQUEST, GIVEN), expected, 1e-5)


def test_without_a_retain_term_the_retain_set_is_not_needed():
    for build in (unlearning.grad_diff, unlearning.wga, unlearning.satimp):
        assert build(SGD, retain=None).needs == {"forget", "inputs", "labels"}


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: unlearning.grad_diff(SGD, per="word"), "per must be one of"),
        (lambda: unlearning.wga(SGD, beta=-0.1), "beta must be >= 0"),
        (lambda: unlearning.wga(SGD, beta=np.inf), "beta must be finite"),
        (lambda: unlearning.satimp(SGD, beta1=-1.0), "beta1 must be >= 0"),
        (lambda: unlearning.satimp(SGD, beta2=-1.0), "beta2 must be >= 0"),
        (lambda: unlearning.satimp(SGD, beta2=np.inf), "beta2 must be finite"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call()
