import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from unlearnjax import audit


def logistic_regression(x, labels, strength=1.0):
    """Minimum of `|w|^2 / 2 + strength * sum of weighted losses` by Newton's method; no library."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weight = strength * len(labels) / (2 * np.bincount(labels)[labels])
    penalty = np.diag([1.0] * (x.shape[1] - 1) + [0.0])  # not of the intercept
    w = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ w))
        gradient = x.T @ (weight * (p - labels)) + penalty @ w
        hessian = (x.T * (weight * p * (1 - p))) @ x + penalty
        w = w - np.linalg.solve(hessian, gradient)
    return lambda new: new @ w[:-1] + w[-1]


@pytest.mark.parametrize(("num_folds", "seed"), [(2, 0), (4, 3)])
def test_it_is_a_balanced_logistic_regression_on_standardised_activations(num_folds, seed):
    """Against Newton's method on the same folds; scales and sizes of the sets are far apart."""
    rng = np.random.default_rng(1)
    scale = np.array([1.0, 100.0, 0.01])
    one, other = rng.normal(0.8, 1, (20, 3)) * scale, rng.normal(0, 1, (90, 3)) * scale
    x, labels = np.concatenate([one, other]), np.repeat([1, 0], [20, 90])
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(x, labels)
    accuracies, areas = [], []
    for fit, judge in folds:
        mean, std = x[fit].mean(0), x[fit].std(0)
        score = logistic_regression((x[fit] - mean) / std, labels[fit])((x[judge] - mean) / std)
        accuracies.append(balanced_accuracy_score(labels[judge], score > 0))
        areas.append(roc_auc_score(labels[judge], score))
    found = audit.linear_probe(one, other, num_folds=num_folds, seed=seed)
    assert found["accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["auc"] == pytest.approx(np.mean(areas))
    if num_folds == 2:
        assert found == audit.linear_probe(one, other)


def test_separable_activations_are_told_apart_and_unrelated_ones_are_not():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(300, 5)), rng.normal(size=(900, 5))
    null = audit.linear_probe(one, other)
    assert null["accuracy"] == pytest.approx(0.5, abs=0.06)
    assert null["auc"] == pytest.approx(0.5, abs=0.06)
    assert audit.linear_probe(one + 9, other) == {"accuracy": 1.0, "auc": 1.0}
    assert audit.linear_probe(other + 9, one) == {"accuracy": 1.0, "auc": 1.0}


def test_what_is_learned_by_heart_does_not_count():
    """More features than examples: any labels can be fitted, which judging on others shows."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 60, 300))
    assert audit.linear_probe(one, other)["accuracy"] < 0.65


def test_activations_are_flattened_and_constant_ones_do_no_harm():
    rng = np.random.default_rng(0)
    one, other = rng.normal(1, 1, (30, 2, 3)), rng.normal(0, 1, (40, 2, 3))
    flat = audit.linear_probe(one.reshape(30, 6), other.reshape(40, 6))
    assert audit.linear_probe(one, other) == flat
    constant = [
        np.concatenate([x.reshape(len(x), 6), np.ones((len(x), 1))], 1) for x in (one, other)
    ]
    assert audit.linear_probe(*constant) == pytest.approx(flat)


def test_too_many_examples_are_a_sample_by_the_seed():
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.3, 1, (50, 2)), rng.normal(0, 1, (80, 2))
    found = [audit.linear_probe(one, other, seed=s, max_examples=20) for s in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    chosen = np.random.default_rng(0)
    few = [x[np.sort(chosen.permutation(len(x))[:20])] for x in (one, other)]
    assert audit.linear_probe(*few) == found[0]
    # Only those of the larger set are far apart in scale: both sets are cut.
    assert audit.linear_probe(one, other, max_examples=60) != audit.linear_probe(one, other)


def test_too_many_features_are_a_sample_by_the_seed():
    """The same of both sets, and of sets of other sizes; all when there are no more than that."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.3, 1, (30, 3, 4)), rng.normal(0, 1, (40, 3, 4))
    flat = [x.reshape(len(x), -1) for x in (one, other)]
    found = [audit.linear_probe(one, other, seed=s, max_features=5) for s in (0, 3)]
    for seed, value in zip((0, 3), found, strict=True):
        own = np.sort(np.random.default_rng(seed).permutation(12)[:5])
        assert value == audit.linear_probe(*(x[:, own] for x in flat), seed=seed)
    whole = audit.linear_probe(one, other)
    assert audit.linear_probe(one, other, max_features=12) == whole not in found
    # By default 4096: one column more, and one is left out.
    columns = np.zeros((4, 4097))
    left_out = np.random.default_rng(0).permutation(4097)[4096]
    columns[:2, left_out] = 1
    assert audit.linear_probe(columns[:2], columns[2:])["auc"] == 0.5
    assert audit.linear_probe(columns[:2], columns[2:], max_features=4097)["auc"] == 1.0


def test_folds_are_capped_at_the_smaller_set():
    one, other = np.arange(3.0)[:, None] + 10, np.arange(9.0)[:, None]
    expected = audit.linear_probe(one, other, num_folds=3)
    assert audit.linear_probe(one, other, num_folds=7) == expected


def test_half_precision_is_computed_in_single():
    one = np.full((10, 1), 300.0, np.float16) + np.arange(10)[:, None].astype(np.float16)
    other = -one
    assert audit.linear_probe(1000 * one.astype(np.float32), other)["accuracy"] == 1.0
    assert audit.linear_probe(one, other)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("one", "other", "options", "message"),
    [
        (np.ones((1, 2)), np.ones((5, 2)), {}, r"at least 2 examples .* got \(1, 2\) and \(5, 2\)"),
        (np.ones((5, 2)), np.ones((1, 2)), {}, "at least 2 examples"),
        (np.ones((5, 2)), np.ones((5, 3)), {}, "the same features"),
        (np.ones(5), np.ones(5), {}, r"must be \[N, \.\.\.\]"),
        (np.ones((5, 0)), np.ones((5, 0)), {}, r"at least 1, got \(5, 0\) and \(5, 0\)"),
        (np.ones((5, 2)), np.ones((5, 2)), {"max_features": 0}, "max_features must be >= 1"),
        (np.full((5, 2), np.nan), np.ones((5, 2)), {}, "forgotten must be finite"),
        (np.ones((5, 2)), np.full((5, 2), np.inf), {}, "others must be finite"),
        (np.ones((5, 2)), np.ones((5, 2)), {"num_folds": 1}, "num_folds must be >= 2, got 1"),
        (np.ones((5, 2)), np.ones((5, 2)), {"max_examples": 1}, "max_examples must be >= 2"),
    ],
)
def test_bad_input_is_refused(one, other, options, message):
    with pytest.raises(ValueError, match=message):
        audit.linear_probe(one, other, **options)
