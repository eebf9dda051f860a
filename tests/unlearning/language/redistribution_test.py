"""UNDIAL and CE-U against the closed form of the gradient of a cross-entropy, in the logits."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from tests import problems
from tests.unlearning import linear
from tests.unlearning.language import toy
from unlearnjax import unlearning
from unlearnjax.types import Request
from unlearnjax.unlearning.language import answers

SGD = optax.sgd(1.0)
REQUEST, GIVEN = toy.problem()
ANSWER = np.asarray(REQUEST.forget["answer"], np.float64)
TRUE = np.eye(toy.VOCABULARY)[np.asarray(REQUEST.forget["targets"])]


@pytest.fixture(autouse=True)
def one_step_on_all_rows(monkeypatch):
    monkeypatch.setattr(answers, "descend", toy.whole_step)


def descent(target, spoken):
    """Of the mean over answers of the mean over spoken tokens of `H(target, softmax(logits))`."""
    share = spoken / np.maximum(spoken.sum(-1, keepdims=True), 1) / len(spoken)
    error = np.exp(toy.logits(GIVEN, REQUEST.forget)) - target
    return toy.pulled("logits", GIVEN, REQUEST.forget, error * share[..., None])


def added(method, alone, retain_weight):
    """Both gradients of a method, with the retain term that it takes."""
    parts = {"forget", "retain"} if retain_weight else {"forget"}
    assert method.needs == parts | {"inputs", "labels"}
    if not retain_weight:
        return alone, toy.slope(method, REQUEST._replace(retain=None), GIVEN)
    kept = toy.scaled(retain_weight, toy.nll_slope(GIVEN, REQUEST.retain))
    return toy.added(alone, kept), toy.slope(method, REQUEST, GIVEN)


@pytest.mark.parametrize(
    "options, beta, retain_weight",
    [({}, 10.0, 0), ({"beta": 0.5, "retain": "nll", "retain_weight": 0.3}, 0.5, 0.3)],
)
def test_undial_lowers_the_originals_logit_of_the_true_token(options, beta, retain_weight):
    method = unlearning.undial(SGD, **options)
    lowered = toy.logits(REQUEST.original, REQUEST.forget) - beta * TRUE
    alone = descent(scipy.special.softmax(lowered, axis=-1), ANSWER)
    problems.assert_trees_close(*added(method, alone, retain_weight), 1e-5)


@pytest.mark.parametrize(
    "options, spare, retain_weight",
    [({}, 1, 0), ({"spare": 0, "retain": "nll"}, 0, 1.0), ({"spare": 2}, 2, 0)],
)
def test_ce_u_strikes_the_true_token_out_of_what_the_model_says(options, spare, retain_weight):
    method = unlearning.ce_u(SGD, **options)
    spoken = np.array(
        [[v and row[: i + 1].sum() > spare for i, v in enumerate(row)] for row in ANSWER]
    )
    assert (spoken.sum(-1) == np.maximum(ANSWER.sum(-1) - spare, 0)).all()
    probs = np.exp(toy.logits(GIVEN, REQUEST.forget)) * (1 - TRUE)
    alone = descent(probs / probs.sum(-1, keepdims=True), spoken.astype(float))
    # Differences of like probabilities.
    problems.assert_trees_close(*added(method, alone, retain_weight), 1e-4)


@pytest.mark.parametrize("name, options", [("undial", {"beta": 2.0}), ("ce_u", {"spare": 0})])
def test_an_image_classifiers_answer_is_its_label(name, options):
    request, given, original = linear.problem()
    method = getattr(unlearning, name)(SGD, **options)
    x, y = (np.asarray(request.forget[k]) for k in ("inputs", "targets"))
    true, said = np.eye(linear.CLASSES)[y], x @ linear.weights(given)
    if name == "undial":
        target = scipy.special.softmax(x @ linear.weights(original) - 2.0 * true, axis=-1)
    else:
        target = np.exp(said) * (1 - true)
        target /= target.sum(-1, keepdims=True)
    error = scipy.special.softmax(said, axis=-1) - target
    found = toy.slope(method, request._replace(original=original), given, linear.TASK)
    np.testing.assert_allclose(found["w"], x.T @ error / len(x), atol=1e-5)


def test_a_label_cannot_be_spared():
    request, given, _ = linear.problem()
    with pytest.raises(ValueError, match="spare must be 0 where an answer is one label, got 1"):
        toy.slope(unlearning.ce_u(SGD), request, given, linear.TASK)


def test_a_task_without_logits_is_refused():
    def apply(*args):
        outputs, variables = toy.apply(*args)
        return {"log_probs": outputs["log_probs"]}, variables

    task = toy.TASK._replace(apply=apply)
    with pytest.raises(ValueError, match="the model must return 'logits'"):
        toy.slope(unlearning.ce_u(SGD), Request(REQUEST.forget), GIVEN, task)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: unlearning.undial(SGD, beta=-1.0), "beta must be >= 0"),
        (lambda: unlearning.undial(SGD, beta=jnp.inf), "beta must be finite"),
        (lambda: unlearning.ce_u(SGD, spare=-1), "spare must be >= 0"),
        (lambda: unlearning.ce_u(SGD, spare=0.5), "spare must be a whole number"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call()
