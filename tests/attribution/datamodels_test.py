import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Lasso, Ridge, RidgeCV

from unlearnjax import attribution

M, N, K = 60, 25, 4


@pytest.fixture
def problem(rng):
    """Outputs that are linear in the mask, and noise."""
    masks = rng.random((M, N)) < 0.5
    weights = rng.normal(size=(N, K)) * (rng.random((N, K)) < 0.4)
    outputs = masks @ weights + 3.0 + 0.1 * rng.normal(size=(M, K))
    return masks, outputs.astype(np.float32), weights


def weights_of(datamodels):
    return -np.stack([attribution.predict_counterfactual(datamodels, [i]) for i in range(N)])


def test_datamodels_are_scikit_learns_ridge_with_its_leave_one_out_lambda(problem):
    masks, outputs, _ = problem
    lambdas = (0.1, 1.0, 10.0, 100.0)
    fitted = jax.jit(lambda m, y: attribution.fit_datamodels(m, y, lambdas))(masks, outputs)
    for k in range(K):
        reference = RidgeCV(lambdas, alpha_per_target=True).fit(masks.astype(float), outputs[:, k])
        assert float(fitted.penalty[k]) == pytest.approx(reference.alpha_)
        own = Ridge(float(fitted.penalty[k])).fit(masks.astype(float), outputs[:, k])
        np.testing.assert_allclose(weights_of(fitted)[:, k], own.coef_, atol=1e-3)
        held_out = np.random.default_rng(1).random((7, N)) < 0.5
        np.testing.assert_allclose(
            attribution.predict_subsets(fitted, held_out)[:, k],
            own.predict(held_out.astype(float)),
            atol=2e-3,
        )


def test_removing_several_adds_their_weights(problem):
    masks, outputs, weights = problem
    fitted = attribution.fit_datamodels(masks, outputs)
    change = attribution.predict_counterfactual(fitted, jnp.array([2, 7, 11]))
    np.testing.assert_allclose(change, -weights_of(fitted)[[2, 7, 11]].sum(0), atol=1e-4)
    np.testing.assert_allclose(change, -weights[[2, 7, 11]].sum(0), atol=0.4)


@pytest.mark.parametrize("penalty", [0.01, 0.1])
def test_lasso_is_scikit_learns(problem, penalty):
    masks, outputs, _ = problem
    weight, bias = jax.jit(lambda m, y: attribution.lasso(m, y, penalty))(masks, outputs)
    for k in range(K):
        own = Lasso(penalty, tol=1e-8, max_iter=10_000).fit(masks.astype(float), outputs[:, k])
        np.testing.assert_allclose(weight[:, k], own.coef_, atol=2e-3)
        assert float(bias[k]) == pytest.approx(own.intercept_, abs=1e-2)


def test_the_score_is_scipys_spearman(problem, rng):
    actual, predicted = rng.normal(size=(2, 20, 3))
    predicted[:, 0] = actual[:, 0] ** 3
    scores = attribution.linear_datamodeling_score(predicted, actual)
    expected = [spearmanr(predicted[:, k], actual[:, k]).statistic for k in range(3)]
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    assert scores[0] == pytest.approx(1)
    mean, low, high = attribution.score_interval(scores)
    assert low <= mean <= high and mean == pytest.approx(scores.mean())


def test_the_closed_form_is_refitting(rng):
    features, targets = rng.normal(size=(40, 6)), rng.normal(size=(40, 2))
    evaluation = rng.normal(size=(9, 6))
    forget = np.array([3, 4, 30])
    with jax.enable_x64(True):
        exact = attribution.ridge_influence(features, targets, evaluation, gamma=0.5)
        change = attribution.predict_counterfactual(exact, forget)
    kept = np.setdiff1d(np.arange(40), forget)
    fits = [Ridge(0.5, fit_intercept=False).fit(features[i], targets[i]) for i in (range(40), kept)]
    expected = fits[1].predict(evaluation) - fits[0].predict(evaluation)
    np.testing.assert_allclose(change, expected, atol=1e-9)


def test_datamodels_of_ridge_regressions_find_what_the_closed_form_knows(rng):
    """The bridge: subsets of a linear problem, whose counterfactuals are exact."""
    features, weights = rng.normal(size=(30, 5)), rng.normal(size=(5, 1))
    targets = features @ weights + 0.5 * rng.normal(size=(30, 1))
    evaluation = rng.normal(size=(8, 5))
    masks = rng.random((1500, 30)) < 0.7

    def outputs(mask):
        ridge = Ridge(1.0, fit_intercept=False).fit(features[mask], targets[mask])
        return ridge.predict(evaluation).ravel()

    fitted = attribution.fit_datamodels(masks, np.stack([outputs(m) for m in masks]))
    exact = attribution.ridge_influence(features, targets, evaluation, gamma=1.0)
    pairs = [
        (
            attribution.predict_counterfactual(fitted, np.array([i])),
            attribution.predict_counterfactual(exact, np.array([i])).ravel(),
        )
        for i in range(30)
    ]
    predicted, true = (np.stack(x).ravel() for x in zip(*pairs, strict=True))
    assert np.corrcoef(predicted, true)[0, 1] > 0.9


def test_bad_values_are_named(problem):
    masks, outputs, _ = problem
    with pytest.raises(ValueError, match="must be of the same subsets, got 60 and 50"):
        attribution.fit_datamodels(masks, outputs[:50])
    with pytest.raises(ValueError, match="lambdas must be > 0"):
        attribution.fit_datamodels(masks, outputs, (0.0, 1.0))
    with pytest.raises(ValueError, match=r"must be \[subsets, outputs\]"):
        attribution.linear_datamodeling_score(outputs, outputs[:5])
