"""What answers are, in either kind of task, and the loop around the terms."""

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
from unlearnjax.unlearning.language import answers, redistribution, steering

SGD = optax.sgd(1.0)
REQUEST, GIVEN = toy.problem()
ONE_STEP = {"num_steps": 1, "batch_size": 100}


def test_a_label_is_an_answer_of_one_token():
    request, given, _ = linear.problem()
    data = request.forget
    outputs, _ = answers.answered(linear.TASK).apply(given, data, None, False)
    x, y = np.asarray(data["inputs"]), np.asarray(data["targets"])
    expected = scipy.special.log_softmax(x @ linear.weights(given), axis=1)[np.arange(len(y)), y]
    assert outputs["log_probs"].shape == (3, 1)
    for per in answers.PER:
        np.testing.assert_allclose(answers.log_prob(outputs, data, per), expected, rtol=1e-5)


def test_npo_forgets_labels_and_images_that_training_would_have_augmented():
    request, given, original = linear.problem()
    method = unlearning.npo(SGD, beta=0.7, retain_weight=0.5, **ONE_STEP)
    flipped = tasks.augmented(linear.TASK, lambda rng, x: {**x, "inputs": -x["inputs"]})
    numbered = [{**d, "index": jnp.arange(len(d["targets"]))} for d in request[:2]]
    request = request._replace(forget=numbered[0], retain=numbered[1], original=original)
    found = toy.slope(method, request, given, flipped)["w"]
    w, other = linear.weights(given), linear.weights(original)
    gain = [
        scipy.special.log_softmax(np.asarray(request.forget["inputs"]) @ m, axis=1)
        for m in (w, other)
    ]
    y = np.asarray(request.forget["targets"])
    ratio = np.exp(0.7 * (gain[0] - gain[1])[np.arange(len(y)), y])
    weight = 2 * ratio / (ratio + 1)
    expected = -(weight[:, None, None] * linear.cross_entropy_slopes(w, request.forget)).mean(0)
    expected += 0.5 * linear.cross_entropy_slopes(w, request.retain).mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sums_and_means_are_of_the_answer_alone():
    outputs = {"log_probs": jnp.array([[-1.0, -2.0, -4.0], [-jnp.inf, -1.0, -1.0]])}
    batch = {"answer": jnp.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])}
    np.testing.assert_array_equal(answers.log_prob(outputs, batch), [-5.0, -1.0])
    np.testing.assert_array_equal(answers.log_prob(outputs, batch, "token"), [-2.5, -1.0])
    view = {f"refusal.{k}": v for k, v in {**outputs, **batch}.items()}
    np.testing.assert_array_equal(answers.log_prob(view, view, view="refusal"), [-5.0, -1.0])
    np.testing.assert_array_equal(answers.mean(outputs["log_probs"], jnp.zeros((2, 3))), [0, 0])


def test_sums_of_short_floats_are_wide():
    outputs = {"log_probs": jnp.full((1, 300), -1.0, jnp.bfloat16)}
    found = answers.log_prob(outputs, {"answer": jnp.ones((1, 300))})
    assert found.dtype == jnp.float32 and float(found[0]) == -300.0


@pytest.mark.parametrize("name", ["dpo", "undial"])
def test_padding_changes_nothing(name, monkeypatch):
    """Nor what it is filled with."""
    monkeypatch.setattr(answers, "descend", toy.whole_step)
    method = getattr(unlearning, name)(SGD)
    wide = REQUEST._replace(forget=toy.padded(REQUEST.forget), retain=toy.padded(REQUEST.retain))
    found, expected = (toy.slope(method, request, GIVEN) for request in (wide, REQUEST))
    problems.assert_trees_close(found, expected, 1e-5)


@pytest.mark.parametrize(
    "name", ["npo", "simnpo", "dpo", "idk", "grad_diff", "wga", "satimp", "undial", "ce_u", "rmu"]
)
def test_lengths_are_the_loops(name, monkeypatch):
    seen = {}

    def descend(objective, tx, **options):
        seen.update(options)
        return toy.whole_step(objective, tx, **options)

    for module in (answers, steering):
        monkeypatch.setattr(module, "descend", descend)
    build = getattr(unlearning, name)
    options = {"layer": "block_0"} if name == "rmu" else {}
    build(SGD, num_steps=7, batch_size=11, **options)
    assert (seen["num_steps"], seen["batch_size"]) == (7, 11)
    build(SGD, **options)
    assert (seen["num_steps"], seen["batch_size"]) == ((150, 4) if name == "rmu" else (125, 32))
    assert seen["cache_teachers"] == ()


def test_steps_see_batches_of_both_sets_and_the_original_of_each_batch():
    """At a small rate two steps of half the forget set go as far as one of all of it."""
    half = unlearning.npo(optax.sgd(1e-3), beta=2.0, num_steps=2, batch_size=2, retain_weight=0.0)
    answer = np.asarray(REQUEST.forget["answer"], np.float64)
    gain = [toy.said(v, REQUEST.forget)["log_probs"] for v in (GIVEN, REQUEST.original)]
    weight = 2 * scipy.special.expit(2.0 * ((gain[0] - gain[1]) * answer).sum(1, keepdims=True))
    whole = toy.pulled("log_probs", GIVEN, REQUEST.forget, 2e-3 * weight * answer / 4)
    problems.assert_trees_close(toy.slope(half, REQUEST, GIVEN), whole, 0.02)


def test_the_original_is_asked_once_about_the_forget_set_and_never_in_the_loop():
    asked = []

    def apply(variables, batch, rng, train):
        if variables is ORIGINAL:
            asked.append(batch["inputs"].shape)
        return toy.apply(variables, batch, rng, train)

    ORIGINAL = REQUEST.original
    task = toy.TASK._replace(apply=apply)
    method = unlearning.dpo(SGD, num_steps=3, batch_size=3)
    jax.make_jaxpr(lambda v: method.update(jax.random.key(0), task, v, (), REQUEST)[0])(GIVEN)
    assert asked and set(asked) == {(3, toy.LENGTH)}  # in batches of the forget set alone
    assert len(asked) == 2  # traced once for the answers, once for the refusals


def test_without_an_original_the_given_model_is_the_original(monkeypatch):
    """At which NPO is ascent."""
    monkeypatch.setattr(answers, "descend", toy.whole_step)
    found = toy.slope(unlearning.npo(SGD, retain=None), REQUEST._replace(original=None), GIVEN)
    answer = np.asarray(REQUEST.forget["answer"])
    expected = toy.pulled("log_probs", GIVEN, REQUEST.forget, answer / len(answer))
    problems.assert_trees_close(found, expected, 1e-5)


@pytest.mark.parametrize("column", ["outputs", "targets", "shape"])
def test_what_has_no_answers_is_refused(column):
    request, given, _ = linear.problem()
    data, task = request.forget, linear.TASK
    if column == "outputs":
        task = task._replace(apply=lambda v, b, r, t: ({"images": b["inputs"]}, v))
    elif column == "targets":
        data = {**data, "targets": jnp.ones(3)}
    else:
        data = {**data, "answer": jnp.ones((3, 2))}
    message = (
        r"answer must be \[3, 1\]" if column == "shape" else "the task must return 'log_probs'"
    )
    method = unlearning.npo(SGD, retain=None)
    with pytest.raises(ValueError, match=message):
        toy.slope(method, request._replace(forget=data), given, task)


@pytest.mark.parametrize("part", ["forget", "retain"])
@pytest.mark.parametrize("name", ["npo", "grad_diff", "wga", "undial", "ce_u", "dpo", "idk", "rmu"])
def test_tokens_of_which_nobody_says_what_is_answer_are_refused_before_anything_runs(name, part):
    """Padding would count; or each row by the mask of the first row of the other set."""

    def apply(*args):
        raise AssertionError

    options = {"layer": "block_0"} if name == "rmu" else {"retain": "nll"}
    method = getattr(unlearning, name)(SGD, **options)
    lacking = {k: v for k, v in getattr(REQUEST, part).items() if not k.endswith("answer")}
    request = REQUEST._replace(**{part: lacking})
    message = rf"^{part} must have the column 'answer' where targets are tokens \[\d, 6\], it has"
    with pytest.raises(ValueError, match=message):
        method.update(jax.random.key(0), toy.TASK._replace(apply=apply), GIVEN, (), request)


def test_a_retain_set_that_is_not_looked_at_needs_no_answers():
    lacking = {k: v for k, v in REQUEST.retain.items() if k != "answer"}
    method = unlearning.npo(SGD, retain=None, **ONE_STEP)
    jax.eval_shape(lambda v: toy.slope(method, REQUEST._replace(retain=lacking), v), GIVEN)


def test_ones_stand_for_the_answer_of_a_label_alone():
    label, tokens = {"targets": jnp.zeros(2, int)}, {"targets": jnp.zeros((2, 1), int)}
    np.testing.assert_array_equal(answers.mask(label, (2, 1)), [[1], [1]])
    for batch, shape in ((tokens, (2, 1)), (label, (2, 3)), (label, (2,)), ({}, (2, 1))):
        with pytest.raises(ValueError, match="the batch must have 'answer', which of .* tokens"):
            answers.mask(batch, shape)
    with pytest.raises(ValueError, match="the batch must have 'answer'"):
        answers.token_logits({"logits": jnp.zeros((2, 1, 5))}, tokens)


@pytest.mark.parametrize("kind", [np.uint8, bool, jnp.bfloat16, np.int32])
def test_a_mask_of_any_type_counts_alike(kind):
    log_probs = np.random.default_rng(0).normal(size=(2, 300))
    spoken = np.arange(300) < np.array([[299], [271]])
    batch, outputs = {"answer": jnp.asarray(spoken).astype(kind)}, {"log_probs": log_probs}
    rows = [row[own] for row, own in zip(log_probs, spoken, strict=True)]
    for per, of in (("sequence", np.sum), ("token", np.mean)):
        found = answers.log_prob(jax.tree.map(jnp.asarray, outputs), batch, per)
        np.testing.assert_allclose(found, [of(row) for row in rows], rtol=1e-4)


@pytest.mark.parametrize("kind", [np.uint8, jnp.bfloat16])
def test_tokens_are_spared_by_their_place_in_any_type(kind):
    """All but the last of 300 are: a number beyond the small types."""
    outputs = {"logits": jnp.asarray(np.random.default_rng(0).normal(size=(1, 300, 3)))}
    batch = {"targets": jnp.ones((1, 300), int), "answer": jnp.ones((1, 300), kind)}
    found = redistribution.struck_out(299)(None, outputs, batch, {})
    last = np.asarray(outputs["logits"], np.float64)[0, -1]
    others = scipy.special.softmax(np.where([0, 1, 0], -np.inf, last))
    expected = -np.sum(others * scipy.special.log_softmax(last))
    np.testing.assert_allclose(found, [expected], rtol=1e-5)


@pytest.mark.parametrize("name", ["dpo", "satimp", "ce_u", "rmu", "task_vector"])
def test_parameters_keep_their_types(name):
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), GIVEN)
    options = {"layer": "block_0", "where": ["block_0.down"]} if name == "rmu" else {}
    method = getattr(unlearning, name)(optax.adam(1e-3), batch_size=4, **options)
    request = REQUEST._replace(original=None)
    update = lambda v: method.update(jax.random.key(0), toy.TASK, v, (), request)[0]
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert kinds(jax.eval_shape(update, low)) == kinds(low)
