import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import ElasticNet, Ridge, RidgeCV

from unlearnjax import attribution

M, N, K = 60, 25, 4


@pytest.fixture
def problem(rng):
    """Outputs that are linear in the mask, and noise."""
    masks = rng.random((M, N)) < 0.5
    weights = rng.normal(size=(N, K)) * (rng.random((N, K)) < 0.4)
    outputs = masks @ weights + 3.0 + 0.1 * rng.normal(size=(M, K))
    return masks, outputs.astype(np.float32), weights


def test_ridge_datamodels_are_scikit_learns_with_its_leave_one_out_lambda(problem):
    masks, outputs, _ = problem
    lambdas = (0.1, 1.0, 10.0, 100.0)
    fit = jax.jit(lambda m, y: attribution.ridge_datamodels(m, y, lambdas=lambdas))
    fitted = fit(masks, outputs[..., None])
    for k in range(K):
        reference = RidgeCV(lambdas, alpha_per_target=True).fit(masks.astype(float), outputs[:, k])
        assert float(fitted.penalty[k, 0]) == pytest.approx(reference.alpha_)
        own = Ridge(float(fitted.penalty[k, 0])).fit(masks.astype(float), outputs[:, k])
        np.testing.assert_allclose(fitted.weight[:, k, 0], own.coef_, atol=1e-3)
        held_out = np.random.default_rng(1).random((7, N)) < 0.5
        np.testing.assert_allclose(
            attribution.predict_subsets(fitted, held_out)[:, k, 0],
            own.predict(held_out.astype(float)),
            atol=2e-3,
        )


def test_with_fewer_subsets_than_examples_lambda_and_weights_are_scikit_learns(rng):
    """The intercept is not penalised: leave-one-out must not mistake it for a free direction."""
    masks = rng.random((40, 90)) < 0.5
    weights = rng.normal(size=(90, 3)) * 0.2
    outputs = (masks @ weights + rng.normal(size=(40, 3))).astype(np.float32)
    lambdas = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
    fitted = attribution.ridge_datamodels(masks, outputs[..., None], lambdas=lambdas)
    for k in range(3):
        reference = RidgeCV(lambdas).fit(masks.astype(float), outputs[:, k])
        assert float(fitted.penalty[k, 0]) == pytest.approx(reference.alpha_)
        np.testing.assert_allclose(fitted.weight[:, k, 0], reference.coef_, atol=1e-3)
    lambdas = np.geomspace(1, 1e5, 11)
    wanted = RidgeCV(lambdas, alpha_per_target=True).fit(masks.astype(float), outputs).alpha_
    found = attribution.ridge_datamodels(masks, outputs[..., None]).penalty[:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert not np.isclose(np.log10(wanted) % 2, 0).all()


def test_removing_several_adds_their_weights(problem):
    masks, outputs, weights = problem
    for fit in (attribution.ridge_datamodels, attribution.lasso_datamodels):
        fitted = fit(masks, outputs.reshape(M, 2, 2))
        change = attribution.predict_counterfactual(fitted, jnp.array([2, 7, 11]))
        assert change.shape == (2, 2)
        np.testing.assert_allclose(change, -np.asarray(fitted.weight)[[2, 7, 11]].sum(0), atol=1e-5)
        np.testing.assert_allclose(change.ravel(), -weights[[2, 7, 11]].sum(0), atol=0.5)


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("penalty", [0.2, 1.0])
def test_lasso_datamodels_are_scikit_learns_elastic_net(problem, penalty, l1_ratio):
    masks, outputs, _ = problem
    options = {"penalties": (penalty,), "l1_ratio": l1_ratio, "num_steps": 500}
    fit = jax.jit(lambda m, y: attribution.lasso_datamodels(m, y, **options))
    fitted = fit(masks, outputs[..., None])
    for k in range(K):
        own = ElasticNet(
            float(fitted.penalty[k, 0]), l1_ratio=l1_ratio, tol=1e-8, max_iter=10_000
        ).fit(masks.astype(float), outputs[:, k])
        np.testing.assert_allclose(fitted.weight[:, k, 0], own.coef_, atol=2e-3)
        assert float(fitted.bias[k, 0]) == pytest.approx(own.intercept_, abs=1e-2)
    unit = outputs.std(0) * (masks - masks.mean(0)).std() * np.sqrt(np.log(N) / M)
    np.testing.assert_allclose(fitted.penalty[:, 0], penalty * unit, rtol=1e-4)


def test_of_penalties_that_do_equally_well_lasso_takes_the_largest(problem):
    masks, outputs, _ = problem
    chosen = attribution.lasso_datamodels(masks, outputs[..., None], penalties=(1e3, 1e5, 1e4))
    alone = attribution.lasso_datamodels(masks, outputs[..., None], penalties=(1e5,))
    np.testing.assert_array_equal(chosen.weight, 0)
    np.testing.assert_allclose(chosen.penalty, alone.penalty, rtol=1e-6)


def test_lasso_tries_penalties_from_a_quarter_to_four_times_the_unit(rng):
    """Of 80 outputs that are more and more of noise, in steps of about the root of two."""
    masks = rng.random((M, N)) < 0.5
    weights = rng.normal(size=(N, 80)) * (rng.random((N, 80)) < 0.3)
    outputs = masks @ weights + np.geomspace(0.3, 6, 80) * rng.normal(size=(M, 80))
    fitted = attribution.lasso_datamodels(masks, outputs[..., None])
    unit = outputs.std(0) * (masks - masks.mean(0)).std() * np.sqrt(np.log(N) / M)
    found = np.unique(np.round(fitted.penalty[:, 0] / unit, 3))
    np.testing.assert_allclose(found, [0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 4.0], atol=1e-3)


def test_steps_of_the_solver_are_accelerated(problem):
    """Nesterov's sequence written out, without the absolute values."""
    masks, outputs, _ = problem
    options = {"penalties": (0.5,), "l1_ratio": 0.0, "num_steps": 4}
    fitted = attribution.lasso_datamodels(masks, outputs[..., None], **options)
    x, y = masks - masks.mean(0), outputs - outputs.mean(0, np.float64)
    gram, cross, penalty = x.T @ x / M, x.T @ y / M, np.float64(fitted.penalty[:, 0])
    step = 1 / np.linalg.norm(gram, 2)
    old = ahead = np.zeros((N, K))
    t = 1.0
    for _ in range(4):
        new = (ahead + step * (cross - gram @ ahead)) / (1 + step * penalty)
        t, last = (1 + np.sqrt(1 + 4 * t**2)) / 2, t
        old, ahead = new, new + (last - 1) / t * (new - old)
    np.testing.assert_allclose(fitted.weight[..., 0], new, atol=1e-5)


def test_lasso_chooses_the_penalty_that_predicts_held_out_subsets_best(rng):
    masks = rng.random((400, 60)) < 0.5
    weights = np.zeros((60, 1))
    weights[:3] = 1.0
    outputs = (masks @ weights + rng.normal(size=(400, 1)))[..., None]
    penalties = (8.0, 1.0, 0.01)
    chosen = attribution.lasso_datamodels(masks, outputs, penalties=penalties, num_steps=200)
    errors = []
    for p in penalties:
        kept = attribution.lasso_datamodels(
            masks[:360], outputs[:360], penalties=(p,), num_steps=200
        )
        predicted = attribution.predict_subsets(kept, masks[360:])
        errors.append(float(np.mean((predicted - outputs[360:]) ** 2)))
    best = penalties[int(np.argmin(errors))]
    refit = attribution.lasso_datamodels(masks, outputs, penalties=(best,), num_steps=200)
    np.testing.assert_allclose(chosen.weight, refit.weight, atol=2e-3)


@pytest.mark.parametrize(("options", "level"), [({}, 0.01), ({"validation_share": 0.2}, 50.0)])
def test_the_last_tenth_of_the_subsets_is_held_out(rng, options, level):
    """The tenth before it says the contrary: judged by it, too, no weight is better than any."""
    masks = rng.random((100, 8)) < 0.5
    outputs = np.where(np.arange(100) // 10 == 8, -1, 1) * (masks[:, 0] - 0.5)
    fitted = attribution.lasso_datamodels(
        masks, outputs[:, None, None], penalties=(50.0, 0.01), **options
    )
    unit = outputs.std() * (masks - masks.mean(0)).std() * np.sqrt(np.log(8) / 100)
    assert float(fitted.penalty.item()) == pytest.approx(level * unit, rel=1e-4)


def test_two_subsets_of_one_example_are_enough():
    """Outputs 1 without it and 3 with it: the slope of `2 (1/2)^2` and the penalty."""
    fitted = attribution.ridge_datamodels([[0], [1]], [[[1.0]], [[3.0]]], lambdas=(0.5,))
    assert float(fitted.weight.item()) == pytest.approx(1 / (0.5 + 0.5))
    assert float(fitted.bias.item()) == pytest.approx(2 - 0.5)


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

    outputs = np.stack([outputs(m) for m in masks])[..., None]
    fitted = attribution.ridge_datamodels(masks, outputs)
    exact = attribution.ridge_influence(features, targets, evaluation, gamma=1.0)
    pairs = [
        (
            attribution.predict_counterfactual(fitted, np.array([i])).ravel(),
            attribution.predict_counterfactual(exact, np.array([i])).ravel(),
        )
        for i in range(30)
    ]
    predicted, true = (np.stack(x).ravel() for x in zip(*pairs, strict=True))
    assert np.corrcoef(predicted, true)[0, 1] > 0.9


@pytest.mark.parametrize("fit", [attribution.ridge_datamodels, attribution.lasso_datamodels])
def test_masks_and_outputs_of_any_type_count_as_their_numbers(problem, fit):
    masks, outputs, _ = problem
    outputs = np.round(outputs[..., None])
    expected = fit(masks, outputs)
    for m, y in (
        (masks.tolist(), outputs.tolist()),
        (masks.astype(np.uint8), outputs.astype(np.float16)),
        (jnp.asarray(masks, jnp.bfloat16), outputs.astype(np.int32)),
    ):
        jax.tree.map(np.testing.assert_array_equal, fit(m, y), expected)
    # What all subsets have makes no difference.
    same = fit(np.ones_like(masks), outputs)
    np.testing.assert_array_equal(same.weight, 0)
    np.testing.assert_allclose(same.bias, outputs.mean(0), atol=1e-5)


def test_bad_values_are_named(problem):
    masks, outputs, _ = problem
    wide = outputs[..., None]
    with pytest.raises(ValueError, match="must be of the same subsets, got 60 and 50"):
        attribution.ridge_datamodels(masks, wide[:50])
    with pytest.raises(ValueError, match=r"outputs must be \[subsets, n_eval, C\], got \(60, 4\)"):
        attribution.lasso_datamodels(masks, outputs)
    with pytest.raises(ValueError, match=r"masks must be \[subsets, N\] of at least 2"):
        attribution.lasso_datamodels(masks[:1], wide[:1])
    with pytest.raises(ValueError, match="outputs must be finite"):
        attribution.ridge_datamodels(masks, wide * np.nan)
    with pytest.raises(ValueError, match="lambdas must be > 0"):
        attribution.ridge_datamodels(masks, wide, lambdas=(0.0, 1.0))
    with pytest.raises(ValueError, match="penalties must be > 0"):
        attribution.lasso_datamodels(masks, wide, penalties=(0.0,))
    with pytest.raises(ValueError, match="l1_ratio must lie in"):
        attribution.lasso_datamodels(masks, wide, l1_ratio=1.5)
    with pytest.raises(ValueError, match=r"must be \[subsets, outputs\]"):
        attribution.linear_datamodeling_score(outputs, outputs[:5])
