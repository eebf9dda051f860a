import inspect

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests import problems
from unlearnjax import curvature, training, unlearning
from unlearnjax.types import Request

POSITIVE = hnp.arrays(np.float32, 12, elements=st.floats(0, 100, width=32))


class DampenTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_a_tree_worked_out_by_hand(self):
        params = {"a": jnp.array([1.0, -2.0, 3.0, 4.0]), "b": jnp.array([[5.0, -6.0]])}
        # alpha 2, dampening 1/2. Selected: forget > 2 train.
        forget = {"a": jnp.array([1.0, 8.0, 2.0, 3.0]), "b": jnp.array([[1.0, 0.0]])}
        train = {"a": jnp.array([1.0, 2.0, 1.0, 1.0]), "b": jnp.array([[0.0, 0.0]])}
        expected = {
            # kept; 1/2 * 2/8 = 1/8; 2 > 2 is false: kept; 1/2 * 1/3 = 1/6
            "a": jnp.array([1.0, -2.0 / 8, 3.0, 4.0 / 6]),
            # matters to the forget set alone: erased; matters to neither: kept, not 0/0
            "b": jnp.array([[0.0, -6.0]]),
        }
        result = self.variant(unlearning.dampen)(params, forget, train, 2.0, 0.5)
        chex.assert_trees_all_close(result, expected, rtol=1e-6)


@hypothesis.given(forget=POSITIVE, train=POSITIVE, alpha=st.floats(0.1, 20), lam=st.floats(0, 5))
@hypothesis.settings(deadline=None, max_examples=50)
def test_dampening_shrinks_towards_zero_only_where_selected(forget, train, alpha, lam):
    theta = np.linspace(-3, 3, 12, dtype=np.float32)
    result = np.asarray(unlearning.dampen(theta, forget, train, alpha, lam))
    assert np.isfinite(result).all() and result.dtype == theta.dtype
    assert (np.abs(result) <= np.abs(theta)).all()
    assert (result * theta >= 0).all()
    untouched = forget <= np.float32(alpha) * train
    np.testing.assert_array_equal(result[untouched], theta[untouched])


def test_large_dampening_changes_nothing():
    theta = jnp.arange(4.0)
    forget, train = jnp.full(4, 10.0), jnp.ones(4)
    # lambda >= F_forget / F_train: the factor is capped at 1.
    np.testing.assert_array_equal(unlearning.dampen(theta, forget, train, 2.0, 10.0), theta)


def test_limits_of_alpha_and_dampening():
    theta = jnp.arange(1.0, 5.0)
    importance = jnp.array([0.0, 1.0, 2.0, 3.0])
    same = unlearning.dampen(theta, importance, importance, 1.0, 0.1)
    np.testing.assert_array_equal(same, theta)  # equal importances: nothing stands out
    erased = unlearning.dampen(theta, importance, jnp.ones(4), 0.0, 0.0)
    np.testing.assert_array_equal(erased, [1, 0, 0, 0])
    huge = unlearning.dampen(theta, importance, jnp.ones(4), 1e30, 0.0)
    np.testing.assert_array_equal(huge, theta)


def test_selection_is_idempotent():
    """With fixed importances a second time selects the same parameters, and no others."""
    rng = np.random.default_rng(0)
    theta, forget, train = (rng.uniform(0.1, 5, 100).astype(np.float32) for _ in range(3))
    once = np.asarray(unlearning.dampen(theta, forget, train, 2.0, 1.0))
    twice = np.asarray(unlearning.dampen(once, forget, train, 2.0, 1.0))
    np.testing.assert_array_equal(once != theta, twice != once)
    selected = once != theta
    assert 0 < selected.sum() < 100
    np.testing.assert_allclose(twice[selected] * theta[selected], once[selected] ** 2, rtol=1e-5)


@pytest.fixture(scope="module")
def trained():
    """A classifier of digits, and the request to forget class 3."""
    data = problems.digits()
    task = problems.mlp((64,))
    state, _ = jax.jit(
        lambda rng: training.train(
            task, optax.adam(3e-3), data, jnp.arange(1797), rng, num_epochs=10, batch_size=64
        )
    )(jax.random.key(0))
    is_forget = data["targets"] == 3
    forget, retain = ({k: v[m] for k, v in data.items()} for m in (is_forget, ~is_forget))
    return task, state.variables, data, Request(forget, retain)


@pytest.mark.parametrize("importance", ["exact", "batch"])
def test_update_is_the_formula_on_the_importances(trained, importance):
    task, variables, data, request = trained
    method = unlearning.ssd(alpha=3.0, dampening=0.7, importance=importance, batch_size=50)
    deployed, memory = method.init(jax.random.key(0), task, variables, data)
    problems.assert_trees_equal(deployed, variables)
    updated, kept = jax.jit(method.update, static_argnums=1)(
        jax.random.key(1), task, deployed, memory, request
    )
    problems.assert_trees_equal(kept, memory)

    def importances(part):
        if importance == "exact":
            return curvature.fisher_diagonal(task, variables, part, method="vmap")
        return curvature.batch_gradient_squared(task, variables, part, batch_size=50)

    forget, train = importances(request.forget), importances(data)

    def formula(theta, f, d):
        theta, f, d = (np.asarray(x, np.float64) for x in (theta, f, d))
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.minimum(0.7 * d / f, 1)
        return np.where(f > 3.0 * d, factor * theta, theta)

    expected = jax.tree.map(formula, variables["params"], forget, train)
    # A parameter at the very threshold may fall on the other side by rounding.
    pairs = zip(jax.tree.leaves(updated["params"]), jax.tree.leaves(expected), strict=True)
    close = np.concatenate([np.isclose(a, e, rtol=1e-3, atol=1e-6).ravel() for a, e in pairs])
    assert close.mean() > 0.999


def test_it_forgets_a_class_and_keeps_the_others(trained):
    task, variables, data, request = trained
    method = unlearning.ssd(alpha=4.0, dampening=1.0)
    _, memory = method.init(None, task, variables, data)
    updated, _ = method.update(None, task, variables, memory, request)

    def accuracy(variables, part):
        return float(training.evaluate(task, variables, part)["accuracy"].mean())

    assert accuracy(variables, request.forget) > 0.98
    assert accuracy(updated, request.forget) < 0.1
    assert accuracy(updated, request.retain) > accuracy(variables, request.retain) - 0.02


def test_adaptive_alpha_is_the_stated_percentile(rng):
    forget, train = rng.uniform(size=500), rng.uniform(0.1, 1, size=500)
    forget[:20] = train[:20] = 0  # no importance to either: left out
    for share in (0.01, 0.1):
        alpha = unlearning.adaptive_alpha(
            {"x": jnp.asarray(forget)}, {"x": jnp.asarray(train)}, share
        )
        ratios = forget[20:] / train[20:]
        expected = np.percentile(ratios, 100 - np.log(1 + 100 * share))
        assert float(alpha) == pytest.approx(expected, rel=1e-4)


def test_adaptive_alpha_counts_what_matters_to_one_set_alone():
    forget, train = {"x": jnp.array([0.0, 1.0, 1.0])}, {"x": jnp.array([1.0, 0.0, 1.0])}
    # Ratios 0, infinity, 1. With P = 50 the middle one, with P = 100 the largest, which is finite.
    assert float(unlearning.adaptive_alpha(forget, train, np.expm1(50.0) / 100)) == 1.0
    assert 1e38 < float(unlearning.adaptive_alpha(forget, train, 0.0)) < np.inf


@pytest.mark.parametrize("count", [5, 60])
def test_adaptive_ssd_dampens_at_the_percentile_of_the_share_to_be_forgotten(trained, count):
    task, variables, data, request = trained
    few = {k: v[:count] for k, v in request.forget.items()}
    # Far below 1, so that whatever is selected changes.
    method = unlearning.adaptive_ssd(dampening=1e-3, batch_size=100)
    assert method.needs == {"train", "forget", "inputs", "labels"}
    _, memory = method.init(None, task, variables, data)
    updated, _ = method.update(None, task, variables, memory, request._replace(forget=few))
    forget, train = (curvature.fisher_diagonal(task, variables, part) for part in (few, data))
    flat = (np.concatenate([x.ravel() for x in jax.tree.leaves(f)]) for f in (forget, train))
    f, d = (x.astype(float) for x in flat)
    known = (f > 0) | (d > 0)
    percentile = 100 - np.log(1 + 100 * count / 1797)
    alpha = np.percentile(f[known] / d[known], percentile)
    assert float(jax.tree.reduce(jnp.add, memory.num_train)) == 1797
    expected = unlearning.dampen(variables["params"], forget, train, alpha, 1e-3)
    chosen = lambda new: ravel(new) != ravel(variables["params"])
    # ln(1 + 100 count / 1797) per cent of the parameters with importance are above.
    share = chosen(updated["params"]).sum() / known.sum()
    assert share == pytest.approx(np.log(1 + 100 * count / 1797) / 100, abs=2 / known.sum())
    assert (chosen(updated["params"]) == chosen(expected)).mean() > 0.9999


def ravel(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def test_loss_free_ssd_dampens_by_the_sensitivity_of_outputs_without_labels(trained):
    task, variables, data, request = trained
    few = {"inputs": request.forget["inputs"][:40]}
    known = {"inputs": data["inputs"][:300]}
    method = unlearning.loss_free_ssd(alpha=1.5, dampening=0.6, batch_size=50)
    assert method.needs == {"train", "forget", "inputs"}
    _, memory = method.init(None, task, variables, known)
    updated, _ = method.update(None, task, variables, memory, Request(few))
    of = lambda part: curvature.output_sensitivity(task, variables, part, batch_size=20)
    expected = unlearning.dampen(variables["params"], of(few), of(known), 1.5, 0.6)
    assert np.isclose(ravel(updated["params"]), ravel(expected), rtol=1e-3).mean() > 0.999
    assert 0.001 < (ravel(expected) != ravel(variables["params"])).mean() < 0.5


def test_alpha_at_or_above_the_share_of_the_forget_set_selects_nothing(trained):
    """F_D = (|F| F_F + |R| F_R) / |D| >= |F| / |D| F_F, so the ratio never exceeds |D| / |F|."""
    task, variables, data, request = trained
    bound = len(data["targets"]) / len(request.forget["targets"])
    method = unlearning.ssd(alpha=1.001 * bound)
    _, memory = method.init(None, task, variables, data)
    updated, _ = method.update(None, task, variables, memory, request)
    problems.assert_trees_equal(updated["params"], variables["params"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "alpha must be > 0, got -1"),
        ({"alpha": float("nan")}, "alpha must be > 0, got nan"),
        ({"dampening": -0.5}, "dampening must be >= 0, got -0.5"),
        ({"importance": "hessian"}, r"importance must be one of \('exact', 'batch'\)"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
    ],
)
def test_bad_hyper_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        unlearning.ssd(**options)


def test_defaults_are_those_of_the_paper():
    for constructor in (unlearning.ssd, unlearning.loss_free_ssd):
        defaults = {k: p.default for k, p in inspect.signature(constructor).parameters.items()}
        assert (defaults["alpha"], defaults["dampening"]) == (10.0, 1.0)


def test_bad_hyper_parameters_of_variants_are_named():
    with pytest.raises(ValueError, match="alpha must be > 0, got 0.0"):
        unlearning.loss_free_ssd(alpha=0.0)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        unlearning.loss_free_ssd(batch_size=0)
    with pytest.raises(ValueError, match="dampening must be >= 0, got -1.0"):
        unlearning.adaptive_ssd(dampening=-1.0)
