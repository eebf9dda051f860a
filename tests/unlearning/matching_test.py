import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge

from tests import problems
from unlearnjax import attribution, audit, tasks, training, unlearning
from unlearnjax.types import Request


@pytest.fixture(scope="module")
def problem():
    """The fifteen digits that models find hardest are forgotten; oracles, to average over."""
    data = {k: jnp.asarray(v) for k, v in problems.digits(500).items()}
    task = problems.mlp((16,))

    @jax.jit
    def fit(rng, indices):
        options = {"num_epochs": 15, "batch_size": 50}
        return training.train(task, optax.adam(5e-3), data, indices, rng, **options)[0].variables

    everything = np.arange(500)
    first = [fit(jax.random.key(100 + i), everything) for i in range(4)]
    rows = np.sort(np.argsort(sum(margins(task, v, data) for v in first))[:15])
    kept = np.setdiff1d(everything, rows)
    oracles = [fit(jax.random.key(i), kept) for i in range(1, 7)]
    request = Request(*({k: v[i] for k, v in data.items()} for i in (rows, kept)))
    return task, data, fit(jax.random.key(0), everything), oracles, request


def margins(task, variables, data):
    return np.asarray(training.evaluate(task, variables, data)["margin"])


def distance(problem, variables, oracles=None):
    """Mean difference of the margins on the forget set to those of the mean oracle."""
    task, _, _, all_oracles, request = problem
    mean = np.mean([margins(task, o, request.forget) for o in oracles or all_oracles], axis=0)
    return np.abs(margins(task, variables, request.forget) - mean).mean()


def retained(problem, variables):
    return float(training.evaluate(problem[0], variables, problem[4].retain)["accuracy"].mean())


def test_matching_an_oracle_gives_its_margins(problem):
    task, _, original, oracles, request = problem
    method = unlearning.oracle_matching(optax.adam(3e-3), oracles[0], num_epochs=150)
    assert "labels" not in method.needs
    updated, _ = jax.jit(lambda r: method.update(r, task, original, (), request))(jax.random.key(0))
    before, after = (distance(problem, v, oracles[:1]) for v in (original, updated))
    assert after < 0.6 * before
    assert retained(problem, updated) > 0.97


def test_datamodel_matching_moves_towards_oracles_that_it_never_saw(problem):
    task, data, original, _, request = problem
    method = unlearning.enforce(
        unlearning.dmm(
            optax.adam(3e-3),
            optax.adam(5e-3),
            num_models=256,
            train_epochs=20,
            train_batch_size=50,
            num_epochs=200,
        )
    )
    init = jax.jit(lambda r: method.init(r, task, original, data))
    deployed, memory = init(jax.random.key(5))
    problems.assert_trees_equal(deployed, original)
    updated, _ = jax.jit(lambda r, m: method.update(r, task, original, m, request))(
        jax.random.key(0), memory
    )
    # One oracle is as far from their mean as the original is: what is matched is the mean.
    assert distance(problem, updated) < 0.8 * distance(problem, original)
    assert retained(problem, updated) > 0.97


def test_with_exact_attribution_matching_beats_descent_on_the_retain_set():
    """The paper's convex case: the forget set carries a direction that the retain set hardly has.

    Equal budgets of full-batch gradient steps; fine-tuning is slow along that direction, matching
    is not, since its targets are exact and hold on the forget set too.
    """
    rng, d, n, gone = np.random.default_rng(0), 20, 200, 10
    features = rng.normal(size=(n, d)).astype(np.float32)
    features[:, 0] *= 0.05
    features[:gone, 0] = 2.0
    targets = (features @ rng.normal(size=d) + (np.arange(n) < gone) * 3.0).astype(np.float32)
    gamma = 1e-3
    data = {"inputs": features, "targets": targets, "index": np.arange(n)}
    request = Request(*({k: v[i] for k, v in data.items()} for i in (slice(gone), slice(gone, n))))

    def ridge(part):
        fit = Ridge(gamma, fit_intercept=False).fit(part["inputs"], part["targets"])
        return fit.coef_.astype(np.float32)

    def init(key, batch):
        return {"params": {"w": jnp.zeros((d, 1))}}

    def apply(variables, batch, key, train):
        return {"logits": batch["inputs"] @ variables["params"]["w"]}, variables

    task = tasks.regression(tasks.Model(init, apply))
    start = {"params": {"w": jnp.asarray(ridge(data))[:, None]}}
    exact = ridge(request.retain)
    with jax.enable_x64(True):
        wide = [x.astype(np.float64) for x in (features, targets[:, None])]
        attributor = attribution.ridge_influence(*wide, wide[0], gamma=gamma)
        change = attribution.predict_counterfactual(attributor, np.arange(gone))
    change = jnp.asarray(np.asarray(change, np.float32))

    def wanted(task, variables, memory, request):
        outputs = [part["inputs"] @ variables["params"]["w"] for part in request[:2]]
        return outputs[0] + change[:gone], outputs[1] + change[gone:]

    budget = {"num_epochs": 150, "batch_size": n}
    tx = optax.sgd(0.3)
    methods = {
        "dmm": unlearning.match_outputs(tx, wanted, retain_multiplier=20.0, **budget),
        "finetune": unlearning.finetune(tx, **budget),
        "ascent": unlearning.gradient_ascent(optax.sgd(1e-3), max_loss=10.0, **budget),
    }
    distances = {"original": np.linalg.norm(start["params"]["w"][:, 0] - exact)}
    for name, method in methods.items():
        updated, _ = method.update(jax.random.key(0), task, start, (), request)
        distances[name] = np.linalg.norm(updated["params"]["w"][:, 0] - exact)
    assert distances["dmm"] < 1e-2 * distances["original"]
    assert distances["dmm"] < 0.1 * min(distances["finetune"], distances["ascent"])


@pytest.mark.slow
def test_with_exact_attribution_logistic_regression_is_matched_better_than_by_gradients():
    """The same for populations: parameter distance and KLoM, against GD, GA and SCRUB.

    Forty L2-regularised classifiers of two digits, each on its own part of the retain set. The
    forget set is a group that most of a direction comes from. Equal budgets of gradient steps.
    """
    rng, models, steps, gamma = np.random.default_rng(0), 40, 100, 1e-2
    pixels, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, [3, 8])
    features = PCA(12, whiten=True, random_state=0).fit_transform(pixels[chosen])[:300] / 3
    features[:, 0] *= 0.05
    features[:20, 0] += 2.0
    targets = (labels[chosen][:300] == 8).astype(int)
    targets[:20] = 1
    gone = np.arange(20)
    kept = np.stack([rng.choice(np.arange(20, 250), 150, replace=False) for _ in range(models)])

    def fitted(rows):
        """The optimum, as the weights of two logits whose squares are penalised."""
        inverse = 2 / (len(rows) * gamma)
        fit = LogisticRegression(C=inverse, fit_intercept=False, tol=1e-8, max_iter=10_000)
        half = fit.fit(features[rows], targets[rows]).coef_[0] / 2
        return np.stack([-half, half], axis=1).astype(np.float32)

    start = np.stack([fitted(np.concatenate([gone, rows])) for rows in kept])
    exact = np.stack([fitted(rows) for rows in kept])
    data = {
        "inputs": jnp.asarray(features, jnp.float32),
        "targets": jnp.asarray(targets),
        "index": jnp.arange(300),
    }

    def apply(variables, batch, key, train):
        return {"logits": batch["inputs"] @ variables["params"]["w"]}, variables

    task = tasks.classification(tasks.Model(lambda key, batch: {}, apply))
    take = lambda rows: {k: v[rows] for k, v in data.items()}
    l2 = lambda rate: optax.chain(optax.add_decayed_weights(gamma), optax.sgd(rate))

    def wanted(task, variables, memory, request):
        return tuple(part["inputs"] @ memory for part in request[:2])

    budget = {"num_epochs": steps, "batch_size": 200}
    methods = {
        "dmm": unlearning.match_outputs(optax.sgd(0.3), wanted, retain_multiplier=20.0, **budget),
        **{f"GD {r}": unlearning.finetune(l2(r), **budget) for r in (0.3, 1.0, 3.0)},
        **{f"GA {r}": unlearning.gradient_ascent(optax.sgd(r), **budget) for r in (1e-3, 1e-2)},
        **{
            f"SCRUB {r}": unlearning.scrub(l2(r), num_epochs=steps, max_epochs=5, batch_size=200)
            for r in (0.3, 1.0)
        },
    }
    oracle = {"params": {"w": jnp.asarray(exact)}}
    margin = jax.vmap(lambda v: training.evaluate(task, v, data)["margin"])
    gaps, kloms = {}, {}
    for name, method in methods.items():

        def update(weights, memory, rows, method=method):
            request = Request(take(jnp.asarray(gone)), take(rows))
            variables = {"params": {"w": weights}}
            return method.update(jax.random.key(0), task, variables, memory, request)[0]

        updated = jax.jit(jax.vmap(update))(start, exact, kept)
        off = np.asarray(updated["params"]["w"]) - exact
        gaps[name] = np.linalg.norm(off, axis=(1, 2)).mean()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="KLoM wants")
            values = audit.klom(margin(updated), margin(oracle))
        parts = (values[:20], values[20:250], values[250:])
        kloms[name] = {"forget": parts[0].mean(), "mean": np.mean([p.mean() for p in parts])}
    others = [name for name in methods if name != "dmm"]
    assert gaps["dmm"] < 0.1 * np.linalg.norm(start - exact, axis=(1, 2)).mean()
    assert gaps["dmm"] < 0.5 * min(gaps[name] for name in others)
    for part in ("forget", "mean"):
        assert kloms["dmm"][part] < 0.2 * min(kloms[name][part] for name in others)


def test_bad_values_are_named():
    tx = optax.sgd(0.1)
    for options, message in (
        ({"num_models": 1}, "num_models must be >= 2"),
        ({"share": 1.0}, "share must lie in"),
        ({"retain_multiplier": 0.0}, "retain_multiplier must be > 0"),
        ({"train_epochs": 0}, "train_epochs must be >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            unlearning.dmm(tx, tx, **options)


def test_the_direct_answer_is_the_given_model_plus_the_predicted_change(problem):
    task, data, original, _, request = problem
    method = unlearning.enforce(
        unlearning.dm_direct(optax.adam(5e-3), num_models=16, train_epochs=3, train_batch_size=50)
    )
    deployed, memory = jax.jit(lambda r: method.init(r, task, original, data))(jax.random.key(5))
    served = method.serve(task)
    before = training.outputs(served, deployed, data)["logits"]
    np.testing.assert_allclose(before, training.outputs(task, original, data)["logits"], atol=1e-5)
    updated, _ = method.update(jax.random.key(0), task, deployed, memory, request)
    change = attribution.predict_counterfactual(memory, request.forget["index"])
    after = training.outputs(served, updated, data)["logits"]
    np.testing.assert_allclose(after, before + change, atol=1e-4)
    assert float(np.abs(change).max()) > 0.01


@pytest.fixture(scope="module")
def by_hand():
    """A linear model of six examples in random order, and datamodels that are drawn, not fitted."""
    rng = np.random.default_rng(0)
    data = {
        "inputs": jnp.asarray(rng.normal(size=(6, 8)), jnp.float32),
        "index": jnp.asarray(rng.permutation(6), jnp.int32),
    }
    weight = jnp.asarray(rng.normal(size=(6, 6, 10)), jnp.float32)
    datamodels = attribution.Datamodels(weight, *jnp.zeros((2, 6, 10)))
    task = problems.softmax_regression()
    parts = ({k: v[s] for k, v in data.items()} for s in (slice(2), slice(2, 6)))
    return task, problems.init(task, data), data, datamodels, Request(*parts)


def logits(task, variables, data):
    return np.asarray(task.apply(variables, data, None, False)[0]["logits"])


@pytest.mark.parametrize("name", ["dmm", "oracle_matching"])
def test_matching_ends_at_the_wanted_outputs_of_both_parts(by_hand, name):
    """A linear model with more inputs than examples reaches them all."""
    task, variables, data, datamodels, request = by_hand
    options = {"num_epochs": 400, "batch_size": 6, "retain_multiplier": 2.0}
    if name == "dmm":
        method = unlearning.dmm(optax.adam(3e-2), optax.sgd(0.1), **options)
        index, gone = np.asarray(data["index"]), np.asarray(request.forget["index"])
        wanted = logits(task, variables, data) - np.asarray(datamodels.weight)[gone].sum(0)[index]
    else:
        oracle = problems.init(task, data, seed=5)
        method = unlearning.oracle_matching(optax.adam(3e-2), oracle, **options)
        wanted = logits(task, oracle, data)
    update = jax.jit(lambda r: method.update(r, task, variables, datamodels, request)[0])
    np.testing.assert_allclose(logits(task, update(jax.random.key(0)), data), wanted, atol=0.02)


@pytest.mark.parametrize("name", ["match_outputs", "oracle_matching", "dmm"])
@pytest.mark.parametrize(
    ("options", "steps"),
    [({}, 4), ({"retain_multiplier": 2.0}, 3), ({"retain_multiplier": 9.0}, 6)],
)
def test_three_retained_examples_are_matched_for_a_forgotten_one(by_hand, name, options, steps):
    """Of 1 and 5 examples in batches of 1; the transformation adds 1 at every step."""
    task, variables, data, datamodels, _ = by_hand
    request = Request(*({k: v[s] for k, v in data.items()} for s in (slice(1), slice(1, 6))))
    one = optax.stateless(lambda gradients, params: jax.tree.map(jnp.ones_like, gradients))
    wanted = lambda task, variables, memory, request: (jnp.zeros((1, 10)), jnp.zeros((5, 10)))
    target = {"match_outputs": wanted, "oracle_matching": variables, "dmm": one}[name]
    method = getattr(unlearning, name)(one, target, num_epochs=1, batch_size=1, **options)
    updated, _ = method.update(jax.random.key(0), task, variables, datamodels, request)
    moved = jax.tree.map(lambda a, b: a - b, updated, variables)["params"]["Dense_0"]["bias"]
    np.testing.assert_allclose(moved, steps)


@pytest.mark.parametrize("name", ["match_outputs", "oracle_matching", "dmm"])
@pytest.mark.parametrize("options", [{}, {"weighting": "part"}])
def test_one_step_goes_down_half_the_squared_distance_over_examples_or_parts(
    by_hand, name, options
):
    task, variables, data, datamodels, request = by_hand
    oracle = problems.init(task, data, seed=5)
    options = {"num_epochs": 1, "batch_size": 6, "retain_multiplier": 2.0, **options}
    given = logits(task, variables, data)
    wanted = logits(task, oracle, data)
    if name == "match_outputs":
        split = lambda task, variables, memory, request: (wanted[:2], wanted[2:])
        method = unlearning.match_outputs(optax.sgd(0.1), split, **options)
    elif name == "oracle_matching":
        method = unlearning.oracle_matching(optax.sgd(0.1), oracle, **options)
    else:
        method = unlearning.dmm(optax.sgd(0.1), optax.sgd(0.1), **options)
        index = np.asarray(data["index"])
        wanted = given - np.asarray(datamodels.weight)[index[:2]].sum(0)[index]
    updated, _ = method.update(jax.random.key(0), task, variables, datamodels, request)
    error = given - wanted
    slope = error[:2].mean(0) + error[2:].mean(0) if "weighting" in options else error.mean(0)
    moved = jax.tree.map(lambda a, b: a - b, updated, variables)["params"]["Dense_0"]["bias"]
    np.testing.assert_allclose(moved, -0.1 * slope, atol=1e-6)


def test_subset_models_are_trained_in_batches_of_the_size_asked_for(by_hand):
    task, variables, data, _, _ = by_hand
    data = {**data, "index": jnp.arange(6), "targets": jnp.arange(6)}
    sizes = set()

    def apply(variables, batch, rng, train):
        sizes.update([len(batch["inputs"])] if train else [])
        return task.apply(variables, batch, rng, train)

    for constructor in (unlearning.dm_direct, lambda tx, **o: unlearning.dmm(tx, tx, **o)):
        method = constructor(optax.sgd(0.1), num_models=2, train_epochs=1, train_batch_size=2)
        method.init(jax.random.key(0), task._replace(apply=apply), variables, data)
        assert sizes == {2}
        sizes.clear()


def test_the_direct_answers_to_requests_add_up(by_hand):
    task, variables, data, datamodels, request = by_hand
    method = unlearning.dm_direct(optax.sgd(0.1))
    once, _ = method.update(None, task, variables, datamodels, request)
    second = request._replace(forget={k: v[2:3] for k, v in data.items()})
    twice, _ = method.update(None, task, once, datamodels, second)
    served, index = method.serve(task), np.asarray(data["index"])
    changes = [0.0, *(np.asarray(datamodels.weight)[index[s]].sum(0)[index] for s in ([0, 1], [2]))]
    for model, change in ((once, changes[1]), (twice, changes[1] + changes[2])):
        expected = logits(task, variables, data) - change
        np.testing.assert_allclose(logits(served, model, data), expected, atol=1e-5)


def test_an_index_that_is_no_position_is_refused_and_changes_nothing_where_compiled(by_hand):
    task, variables, data, datamodels, request = by_hand
    method = unlearning.dm_direct(optax.sgd(0.1))
    updated, _ = method.update(None, task, variables, datamodels, request)
    served = method.serve(task)
    strange = {**data, "index": jnp.array([6, -1, 100, 5, 0, -7])}
    outputs = jax.jit(lambda batch: served.apply(updated, batch, None, False)[0]["logits"])(strange)
    own = logits(task, variables, data)
    changed = (np.abs(outputs - own) > 1e-4).any(1)
    np.testing.assert_array_equal(changed, [False, False, False, True, True, False])
    with pytest.raises(ValueError, match=r"knows, 0 to 5, got \[6, -1, 100, -7\]"):
        logits(served, updated, strange)
    matching = unlearning.dmm(optax.sgd(0.1), optax.sgd(0.1))
    retain = {**request.retain, "index": request.retain["index"] + 3}
    with pytest.raises(ValueError, match="index of the retain set must be positions"):
        matching.update(
            jax.random.key(0), task, variables, datamodels, request._replace(retain=retain)
        )
    for constructor in (matching, method):
        with pytest.raises(ValueError, match="index of the training data must be its positions"):
            constructor.init(jax.random.key(0), task, variables, data)


def test_any_attributor_can_be_the_memory(problem):
    task, data, original, _, request = problem
    method = unlearning.dmm(optax.adam(3e-3), optax.adam(5e-3), num_epochs=10)
    trak = attribution.trak(
        task,
        [original],
        data,
        data,
        jax.random.key(0),
        output=attribution.logit_output,
        num_projections=200,
    )
    update = jax.jit(lambda r, m: method.update(r, task, original, m, request))
    updated, memory = update(jax.random.key(0), trak)
    problems.assert_trees_equal(memory, trak)
    lower = margins(task, updated, request.forget) - margins(task, original, request.forget)
    assert lower.mean() < 0
    assert retained(problem, updated) > 0.97
