"""The estimators against scikit-learn's own suite and its Ridge and RidgeClassifier."""

import copy
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import unlearnjax.sklearn
from unlearnjax.sklearn import AnalyticClassifier, AnalyticRegressor

ALPHA = 0.7
HOWTO = Path(__file__).parents[2] / "docs" / "howto.md"


@parametrize_with_checks([AnalyticClassifier(), AnalyticRegressor()])
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


def rows(rng, n=32, width=5, classes=3):
    """Inputs far from zero, labels (letters, each several times) and weights."""
    inputs = rng.normal(size=(n, width)) * [1, 2, 3, 0.1, 10] + [0, 5, -50, 3, 1000]
    return inputs, np.array(list("cab"))[np.arange(n) % classes], rng.uniform(0.1, 3, n)


def numbers(inputs, rng, columns=()):
    return inputs @ rng.normal(size=(inputs.shape[1], *columns)) + 7


def ridge(inputs, targets, weights=None, intercept=True):
    classified = targets.dtype.kind in "US"
    kind = RidgeClassifier if classified else Ridge
    return kind(ALPHA, fit_intercept=intercept, solver="cholesky").fit(inputs, targets, weights)


def assert_same(model, expected, inputs):
    for name in ("coef_", "intercept_"):
        ours, theirs = getattr(model, name), getattr(expected, name)
        # Without an intercept theirs is one 0; of two classes some versions have no first axis.
        theirs = np.broadcast_to(np.squeeze(theirs), np.shape(ours))
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)
    ours, theirs = model.predict(inputs), expected.predict(inputs)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    if hasattr(model, "classes_"):
        np.testing.assert_array_equal(model.classes_, expected.classes_)
        np.testing.assert_array_equal(ours, theirs)
        scores = model.decision_function(inputs)
        np.testing.assert_allclose(scores, expected.decision_function(inputs), atol=1e-7)


@pytest.mark.parametrize("form", ["gram", "inverse"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("columns", [(), (2,)])
def test_a_regressor_is_the_ridge_of_what_is_left(rng, form, intercept, columns):
    inputs, _, weights = rows(rng)
    if not intercept:  # the inverse form carries less far, see `analytic.precision`
        inputs -= inputs.mean(axis=0) - 0.3
    targets = numbers(inputs, rng, columns)
    model = AnalyticRegressor(ALPHA, fit_intercept=intercept, form=form)
    model.fit(inputs, targets, weights)
    assert_same(model, ridge(inputs, targets, weights, intercept), inputs)
    left = np.arange(32)
    for gone in ([5], [31, 2, 17], [0, 1, 30]):  # one, in another order, in blocks
        model.unfit(inputs[gone], targets[gone], weights[gone])
        left = np.setdiff1d(left, gone)
        assert_same(model, ridge(inputs[left], targets[left], weights[left], intercept), inputs)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_classifier_is_the_ridge_classifier_of_what_is_left(rng, intercept, classes):
    inputs, labels, weights = rows(rng, classes=classes)
    model = AnalyticClassifier(ALPHA, fit_intercept=intercept).fit(inputs, labels, weights)
    assert_same(model, ridge(inputs, labels, weights, intercept), inputs)
    assert model.decision_function(inputs).ndim == (1 if classes == 2 else 2)
    model.unfit(np.asfortranarray(inputs[20:]), labels[20:].tolist(), weights[20:])
    assert_same(model, ridge(inputs[:20], labels[:20], weights[:20], intercept), inputs)
    assert model.score(inputs[:20], labels[:20]) > 0.4


@pytest.mark.parametrize("intercept", [True, False])
def test_rows_come_and_go_in_any_blocks_and_classes_with_them(rng, intercept):
    inputs, labels, weights = rows(rng)
    order = np.argsort(labels == "a", kind="stable")  # class a arrives last, between b and c
    inputs, labels, weights = inputs[order], labels[order], weights[order]
    model = AnalyticClassifier(ALPHA, fit_intercept=intercept)
    model.partial_fit(inputs[:16], labels[:16], sample_weight=weights[:16])
    assert model.classes_.tolist() == ["b", "c"]
    model.unfit(inputs[3:7], labels[3:7], weights[3:7])
    model.partial_fit(inputs[16:], labels[16:], sample_weight=weights[16:])
    model.partial_fit(inputs[3:7], labels[3:7], sample_weight=weights[3:7])
    assert_same(model, ridge(inputs, labels, weights, intercept), inputs)
    gone = labels == "b"
    model.unfit(inputs[gone], labels[gone], weights[gone])
    assert_same(model, ridge(*(x[~gone] for x in (inputs, labels, weights)), intercept), inputs)
    model.partial_fit(inputs[gone], labels[gone], sample_weight=weights[gone])
    assert_same(model, ridge(inputs, labels, weights, intercept), inputs)


def test_a_declared_class_is_there_without_rows(rng):
    inputs, labels, _ = rows(rng)
    model = AnalyticClassifier(ALPHA).partial_fit(inputs, labels, classes=["d", "a", "b", "c"])
    assert model.classes_.tolist() == ["a", "b", "c", "d"]
    scores = model.decision_function(inputs)
    np.testing.assert_allclose(scores[:, 3], -1, atol=1e-9)
    expected = ridge(inputs, labels).decision_function(inputs)
    np.testing.assert_allclose(scores[:, :3], expected, atol=1e-7)
    gone = labels == "a"
    model.unfit(inputs[gone], labels[gone]).partial_fit(inputs[:1], ["e"])
    assert model.classes_.tolist() == ["a", "b", "c", "d", "e"]


def test_inputs_of_another_width_are_not_predicted(rng):
    inputs, labels, _ = rows(rng)
    model = AnalyticClassifier(ALPHA).partial_fit(inputs, labels, classes=["a", "b", "c"])
    for call in (model.predict, model.decision_function):
        with pytest.raises(ValueError, match="X has 4 features"):
            call(inputs[:, 1:])
    assert_same(model, ridge(inputs, labels), inputs)


def test_one_class_is_predicted_everywhere(rng):
    inputs, _, _ = rows(rng)
    model = AnalyticClassifier().fit(inputs, np.full(32, "b"))
    assert model.decision_function(inputs).shape == (32, 1)
    assert set(model.predict(inputs)) == {"b"}


def test_a_row_of_weight_zero_is_not_there(rng):
    inputs, labels, weights = rows(rng)
    weights[labels == "c"] = 0
    there = weights > 0
    model = AnalyticClassifier(ALPHA).fit(inputs, labels, weights)
    assert_same(model, ridge(inputs[there], labels[there], weights[there]), inputs)
    model.unfit(inputs[:4], labels[:4], weights[:4])  # with rows of c that are not there
    there[:4] = False
    assert_same(model, ridge(inputs[there], labels[there], weights[there]), inputs)


@pytest.mark.parametrize("ledger", [True, False])
def test_without_any_row_the_estimator_is_as_before_fit(rng, ledger):
    inputs, labels, _ = rows(rng)
    model = AnalyticClassifier(ALPHA, ledger=ledger).fit(inputs, labels)
    model.unfit(inputs[8:], labels[8:]).unfit(inputs[:8], labels[:8])
    assert vars(model) == vars(AnalyticClassifier(ALPHA, ledger=ledger))
    with pytest.raises(NotFittedError):
        model.predict(inputs)
    with pytest.raises(NotFittedError):
        model.unfit(inputs, labels)
    model.partial_fit(inputs[:, :3], labels)  # another width, as in a new one
    assert_same(model, ridge(inputs[:, :3], labels), inputs[:, :3])


def test_a_row_that_was_learned_twice_is_unlearned_twice(rng):
    inputs, labels, _ = rows(rng)
    twice = np.r_[np.arange(32), 4]
    model = AnalyticClassifier(ALPHA).fit(inputs[twice], labels[twice])
    with pytest.raises(ValueError, match="row 0 is not"):
        model.unfit(inputs[[4, 4, 4]], labels[[4, 4, 4]])
    model.unfit(inputs[[4]], labels[[4]])
    assert_same(model, ridge(inputs, labels), inputs)
    model.unfit(inputs[[4]], labels[[4]])
    with pytest.raises(ValueError, match="row 1 is not"):
        model.unfit(inputs[[3, 4]], labels[[3, 4]])


REFUSED = {
    "never learned": (lambda X, y, w: (X + 1e-9, y, w), "X must hold rows that are learned.*row 0"),
    "another label": (lambda X, y, w: (X, y[::-1], w), "X must hold rows that are learned"),
    "another weight": (lambda X, y, w: (X, y, 2 * w), "X must hold rows that are learned"),
    "no weight": (lambda X, y, w: (X, y, None), "X must hold rows that are learned"),
    "an unknown label": (lambda X, y, w: (X, ["z", "a"], w), r"y must be among .*'a'.*got \['z'\]"),
    "weight below 0": (lambda X, y, w: (X, y, -w), "sample_weight must be >= 0, got -"),
    "weights 0": (lambda X, y, w: (X, y, 0 * w), "sample_weight must be > 0 for at least one"),
    "weights of two axes": (lambda X, y, w: (X, y, w[:, None]), r"must be \[2\], got shape \(2, 1"),
    "another width": (lambda X, y, w: (X[:, 1:], y, w), "4 features"),
    "no number": (lambda X, y, w: (abs(X) * np.inf, y, w), "infinity"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_not_learned_is_refused_in_one_line(rng, case):
    inputs, labels, weights = rows(rng)
    model = AnalyticClassifier(ALPHA).fit(inputs, labels, weights)
    before = pickle.dumps(model)
    change, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as error:
        model.unfit(*change(inputs[:2], labels[:2], weights[:2]))
    assert "\n" not in str(error.value)
    assert pickle.dumps(model) == before


def test_without_a_ledger_what_cannot_have_been_learned_is_refused(rng):
    inputs, labels, _ = rows(rng)
    model = AnalyticClassifier(ledger=False).fit(inputs, labels)
    before = pickle.dumps(model)
    with pytest.raises(ValueError, match="^X must have been learned.*the estimator is left as it"):
        model.unfit(inputs[:1] + 1000, labels[:1])
    with pytest.raises(ValueError, match="^y must not have more rows"):
        model.unfit(np.repeat(inputs[:1], 20, axis=0), np.repeat(labels[:1], 20))
    with pytest.raises(ValueError, match="^sample_weight must leave more than rounding"):
        model.unfit(inputs[:1], labels[:1], [32.0])
    with pytest.raises(ValueError, match="^X must have been learned"):
        model.unfit(2 * inputs, labels)  # as many as were learned
    assert pickle.dumps(model) == before
    model.unfit(inputs[:9], labels[:9])
    expected = AnalyticClassifier().fit(inputs[9:], labels[9:])
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-9)
    assert model._memory.ledger is None and len(expected._memory.ledger) == 23


NOT_LEARNED = {
    "X": ({"X": np.full((32, 5), np.inf)}, "infinity"),
    "X of another width": ({"X": np.ones((32, 4))}, "4 features"),
    "y": ({"y": np.linspace(0, 1, 32)}, "continuous"),
    "numbers beside strings": ({"y": np.arange(32) % 3}, "y must be strings alone or numbers"),
    "classes of two axes": ({"classes": [["a", "b", "c"]]}, r"must be \[C\], got shape \(1, 3\)"),
    "classes": ({"classes": ["a", "b"]}, r"y must be among classes .*, got \['c'\]"),
}


@pytest.mark.parametrize("case", NOT_LEARNED)
def test_what_cannot_be_learned_leaves_the_estimator_as_it_was(rng, case):
    inputs, labels, _ = rows(rng)
    change, message = NOT_LEARNED[case]
    for model in (AnalyticClassifier(), AnalyticClassifier().fit(inputs, labels)):
        if not hasattr(model, "classes_") and case in (
            "X of another width",
            "numbers beside strings",
        ):
            continue
        before = pickle.dumps(model)
        with pytest.raises(ValueError, match=message):
            model.partial_fit(**{"X": inputs, "y": labels, **change})
        assert pickle.dumps(model) == before
    with pytest.raises(ValueError, match="continuous"):
        model.fit(inputs[:, :2], np.linspace(0, 1, 32))
    assert pickle.dumps(model) == before


def test_parameters_out_of_range_are_refused(rng):
    inputs, labels, _ = rows(rng)
    for model, message in (
        (AnalyticClassifier(0.0), "alpha must be > 0, got 0"),
        (AnalyticClassifier(form="cubic"), "form must be one of"),
        (AnalyticClassifier(1e-30), "^alpha must be larger, or X smaller"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(inputs[:3], labels[:3])
        assert vars(model) == model.get_params()


def test_parameters_stay_until_fit_begins_anew(rng):
    inputs, labels, _ = rows(rng)
    model = AnalyticClassifier(5.0).fit(inputs, labels).set_params(alpha=ALPHA)
    for again in (model.partial_fit, model.unfit):
        with pytest.raises(ValueError, match="parameters must stay.*'alpha': 5.0.*got.*0.7"):
            again(inputs, labels)
    assert_same(model.fit(inputs, labels), ridge(inputs, labels), inputs)


def test_targets_keep_their_axes(rng):
    inputs, _, _ = rows(rng)
    model = AnalyticRegressor().fit(inputs, numbers(inputs, rng))
    for again in (model.partial_fit, model.unfit):
        with pytest.raises(ValueError, match=r"y must have 1 axes as before, got \(32, 2\)"):
            again(inputs, numbers(inputs, rng, (2,)))


def test_single_precision_stays_and_is_unlearned_as_the_same_numbers(rng):
    inputs, _, _ = rows(rng)
    inputs = inputs.astype(np.float32)
    inputs[0, 0] = 0
    targets = numbers(inputs, rng)
    model = AnalyticRegressor(ALPHA).fit(inputs, targets)
    assert model.coef_.dtype == model.predict(inputs).dtype == np.float32
    again = inputs[:9].astype(float)
    again[0, 0] = -0.0
    model.unfit(again, targets[:9])
    expected = ridge(inputs[9:].astype(float), targets[9:])
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-6)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=1e-5)


def test_far_from_zero_nothing_is_lost(rng):
    inputs = rng.normal(size=(32, 5))
    targets = numbers(inputs, rng)
    expected = ridge(inputs[9:], targets[9:])
    model = AnalyticRegressor(ALPHA).fit(inputs + 1e6, targets).unfit(inputs[:9] + 1e6, targets[:9])
    np.testing.assert_allclose(model.coef_, expected.coef_, atol=1e-9)


def test_a_copy_that_was_stored_goes_on(rng):
    inputs, labels, _ = rows(rng)
    model = AnalyticClassifier(ALPHA).fit(inputs, labels)
    stored = pickle.dumps(model)
    for other in (pickle.loads(stored), copy.deepcopy(model)):
        other.unfit(inputs[:9], labels[:9])
        assert_same(other, ridge(inputs[9:], labels[9:]), inputs)
    assert pickle.dumps(model) == stored
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(model), "coef_")


def test_in_a_pipeline_the_last_step_unlearns(rng):
    inputs, labels, _ = rows(rng)
    pipeline = make_pipeline(StandardScaler(), AnalyticClassifier(ALPHA)).fit(inputs, labels)
    pipeline[-1].unfit(pipeline[:-1].transform(inputs[:9]), labels[:9])
    scaled = StandardScaler().fit(inputs).transform(inputs)
    assert_same(pipeline[-1], ridge(scaled[9:], labels[9:]), scaled)


def test_a_grid_search_finds_what_it_finds_for_ridge(rng):
    inputs, _, _ = rows(rng)
    targets = numbers(inputs, rng) + 5 * rng.normal(size=32)
    grid = {"alpha": [0.01, 10.0, 1e4]}
    ours, theirs = (
        GridSearchCV(model, grid, cv=4).fit(inputs, targets)
        for model in (AnalyticRegressor(), Ridge())
    )
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(ours.best_score_, theirs.best_score_)
    gone = slice(0, 9)
    ours.best_estimator_.unfit(inputs[gone], targets[gone])


def test_the_example_of_the_docs_forgets_fifty_rows(capsys):
    section = HOWTO.read_text().partition("## In scikit-learn's terms")[2].partition("\n## ")[0]
    learn, pipeline = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    scope = {}
    exec(learn, scope)
    assert float(capsys.readouterr().out) < 1e-10
    exec(pipeline, scope)
    assert unlearnjax.sklearn.AnalyticClassifier is scope["AnalyticClassifier"]


def test_copies_do_not_share_what_they_have_learned():
    X, y = np.random.default_rng(0).normal(size=(12, 3)), np.arange(12.0)
    model = AnalyticRegressor().fit(X[:8], y[:8])
    other = copy.copy(model).partial_fit(X[8:], y[8:])
    with pytest.raises(ValueError, match="row 0 is not"):
        model.unfit(X[8:], y[8:])
    other.unfit(X[:2], y[:2])
    np.testing.assert_allclose(model.unfit(X[:2], y[:2]).coef_, Ridge().fit(X[2:8], y[2:8]).coef_)


@pytest.mark.parametrize("alpha", [None, "x", np.ones(2)])
def test_what_is_no_number_is_no_alpha(alpha):
    with pytest.raises(ValueError, match="alpha must be a number > 0, got"):
        AnalyticRegressor(alpha).fit(np.ones((2, 1)), np.ones(2))
