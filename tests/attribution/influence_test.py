import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Ridge

from tests import problems
from unlearnjax import attribution, curvature, tasks, training
from unlearnjax.types import Task


def ridge_problem(rng, damping=0.1):
    """A linear regression at its minimum, whose influence functions have a closed form."""
    features = rng.normal(size=(40, 5)).astype(np.float32)
    targets = (features @ rng.normal(size=5) + rng.normal(size=40)).astype(np.float32)
    data = {"inputs": features, "targets": targets, "index": np.arange(40)}

    def apply(variables, batch, rng, train):
        return {"logits": batch["inputs"] @ variables["params"]["w"]}, variables

    task = tasks.regression(tasks.Model(lambda rng, batch: {}, apply))
    fit = Ridge(40 * damping, fit_intercept=False).fit(features, targets)
    return task, {"params": {"w": jnp.asarray(fit.coef_, jnp.float32)[:, None]}}, data


def prediction(task: Task, variables, batch):
    return task.apply(variables, batch, None, False)[0]["logits"]


@pytest.mark.parametrize("method", ["cg", "lissa"])
def test_the_first_order_effect_is_that_of_the_normal_equations(rng, method):
    task, variables, data = ridge_problem(rng)
    attributor = attribution.influence(
        task,
        [variables],
        data,
        data,
        output=prediction,
        method=method,
        damping=0.1,
        num_steps=200,
        scale=5.0,
        batch_size=16,
    )
    forget = np.array([3, 17])
    predict = jax.jit(attribution.predict_counterfactual)
    change = predict(attributor, forget)
    x, weight = data["inputs"].astype(float), np.asarray(variables["params"]["w"], float)
    residual = x @ weight - data["targets"][:, None]
    gradient = x[forget].T @ residual[forget]
    expected = x @ np.linalg.solve(x.T @ x + 40 * 0.1 * np.eye(5), gradient)
    np.testing.assert_allclose(change, expected, atol=1e-3)
    # And it points where refitting goes.
    kept = np.setdiff1d(np.arange(40), forget)
    refit = Ridge(4.0, fit_intercept=False).fit(x[kept], data["targets"][kept])
    true = refit.predict(x) - (x @ weight)[:, 0]
    assert np.corrcoef(np.asarray(change)[:, 0], true)[0, 1] > 0.99


def test_damping_is_a_hundredth_unless_it_is_given(rng):
    task, variables, data = ridge_problem(rng)
    attributor = attribution.influence(task, [variables], data, data, output=prediction)
    x, weight = data["inputs"].astype(float), np.asarray(variables["params"]["w"], float)
    gradient = x[[3]].T @ (x[[3]] @ weight - data["targets"][3])
    expected = x @ np.linalg.solve(x.T @ x + 40 * 0.01 * np.eye(5), gradient)
    change = attribution.predict_counterfactual(attributor, [3])
    np.testing.assert_allclose(change, expected, rtol=1e-3, atol=1e-5)


def test_options_of_the_inverse_are_its_own_unless_they_are_given():
    own, inverse = (
        inspect.signature(f).parameters
        for f in (attribution.influence, curvature.inverse_hessian_vector_product)
    )
    for name in ("method", "damping", "num_steps", "scale", "batch_size"):
        assert own[name].default == inverse[name].default


def test_of_several_models_it_is_the_mean(rng):
    task, variables, data = ridge_problem(rng)
    other = jax.tree.map(lambda w: -2 * w, variables)
    predict = lambda models: np.asarray(
        attribution.predict_counterfactual(
            attribution.influence(task, models, data, data, output=prediction, damping=0.1), [3]
        )
    )
    one, two, both = predict([variables]), predict([other]), predict([variables, other])
    assert np.abs(one - two).max() > 0.1 * np.abs(one).max()
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-6)


def test_bfloat16_parameters_are_predicted_for(rng):
    task, variables, data = ridge_problem(rng)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    same = jax.tree.map(lambda x: x.astype(jnp.float32), low)
    changes = [
        attribution.predict_counterfactual(
            attribution.influence(task, [v], data, data, output=prediction, damping=0.1), [3, 17]
        )
        for v in (low, same)
    ]
    scale = np.abs(changes[1]).max()
    np.testing.assert_allclose(changes[0], changes[1], rtol=0, atol=0.03 * scale)


def test_a_subset_is_predicted_as_what_it_lacks_removed(rng):
    task, variables, data = ridge_problem(rng)
    attributor = attribution.influence(
        task, [variables, variables], data, data, output=prediction, damping=0.1
    )
    masks = np.ones((2, 40), bool)
    masks[0, [3, 17]] = False
    predicted = attribution.predict_subsets(attributor, masks)
    expected = attribution.predict_counterfactual(attributor, np.array([3, 17]))
    np.testing.assert_allclose(predicted[0], expected, atol=1e-5)
    np.testing.assert_allclose(predicted[1], 0, atol=1e-6)


def test_the_factored_inverse_agrees_with_conjugate_gradients_on_a_trained_model():
    data = {k: jnp.asarray(v) for k, v in problems.digits(150).items()}
    task = problems.mlp((8,))
    options = {"num_epochs": 60, "batch_size": 50}
    state, _ = jax.jit(
        lambda rng: training.train(task, optax.adam(1e-2), data, jnp.arange(150), rng, **options)
    )(jax.random.key(0))
    changes = {}
    for method in ("cg", "ekfac"):
        attributor = attribution.influence(
            task,
            [state.variables],
            data,
            data,
            method=method,
            damping=0.05,
            rng=jax.random.key(1),
        )
        subsets = np.random.default_rng(0).random((20, 150)) < 0.9
        changes[method] = np.asarray(attribution.predict_subsets(attributor, subsets)).ravel()
    assert np.corrcoef(*changes.values())[0, 1] > 0.6


def test_bad_values_are_named():
    task, data = problems.mlp(), problems.digits(20)
    with pytest.raises(ValueError, match="method must be one of"):
        attribution.influence(task, [{}], data, data, method="exact")
    with pytest.raises(ValueError, match="rng must be given"):
        attribution.influence(task, [{}], data, data, method="ekfac")
    with pytest.raises(ValueError, match="models must be at least one"):
        attribution.influence(task, [], data, data)
