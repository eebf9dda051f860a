"""What each method promises beyond forgetting: its own defining property, against an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import curvature, training, unlearning
from unlearnjax.types import Request


@pytest.fixture(scope="module")
def problem():
    data = problems.digits(600)
    task = problems.mlp((24,))
    state, _ = jax.jit(
        lambda rng: training.train(
            task, optax.adam(3e-3), data, jnp.arange(600), rng, num_epochs=15, batch_size=50
        )
    )(jax.random.key(0))
    mask = data["targets"] == 3
    forget, retain = ({k: jnp.asarray(v[m]) for k, v in data.items()} for m in (mask, ~mask))
    return task, state.variables, Request(forget, retain, forget)


def update(problem, method, seed=0, request=None):
    task, variables, given = problem
    request = request or given
    return jax.jit(lambda rng: method.update(rng, task, variables, (), request)[0])(
        jax.random.key(seed)
    )


def test_influence_moves_a_convex_model_to_the_retrained_one():
    """L2-regularised softmax regression; its penalty is the damping, a Newton step near exact."""
    digits = problems.digits(300)
    task, decay = problems.softmax_regression(), 15.0

    def minimum(data):
        variables = problems.init(task, data)
        flat, unravel = ravel_pytree(variables["params"])

        def loss(flat):
            outputs, _ = task.apply({"params": unravel(flat)}, data, None, False)
            return (task.loss(outputs, data).sum() + decay / 2 * jnp.sum(flat**2)) / len(
                data["targets"]
            )

        solver = optax.lbfgs()

        def step(carry, _):
            flat, state = carry
            value, grad = jax.value_and_grad(loss)(flat)
            updates, state = solver.update(grad, state, flat, value=value, grad=grad, value_fn=loss)
            return (optax.apply_updates(flat, updates), state), None

        run = jax.jit(lambda flat: jax.lax.scan(step, (flat, solver.init(flat)), length=200)[0][0])
        return {"params": unravel(run(flat))}

    forget, retain = ({k: v[s] for k, v in digits.items()} for s in (slice(20), slice(20, 300)))
    original, oracle = minimum(digits), minimum(retain)
    method = unlearning.influence(damping=decay / 280, num_steps=100)
    updated, _ = method.update(None, task, original, (), Request(forget, retain))

    def distance(variables):
        return float(optax.tree.norm(optax.tree.sub(variables["params"], oracle["params"])))

    assert distance(updated) < 0.15 * distance(original)


def test_fisher_noise_has_the_stated_spread(problem):
    task, variables, request = problem
    alpha, bound, last_bound = 1e-6, 0.02, 0.05
    method = unlearning.fisher_forgetting(alpha=alpha, max_std=bound, max_std_last=last_bound)
    draws = jax.jit(jax.vmap(lambda key: method.update(key, task, variables, (), request)[0]))(
        jax.random.split(jax.random.key(0), 300)
    )
    fisher = curvature.fisher_diagonal(task, variables, request.retain, method="vmap")
    for layer, limit in (("Dense_0", bound), ("Dense_1", last_bound)):
        noise = draws["params"][layer]["kernel"] - variables["params"][layer]["kernel"]
        f = np.maximum(np.asarray(fisher[layer]["kernel"]), 1e-30)
        expected = np.minimum(np.sqrt(alpha / f), limit)
        ratio = np.asarray(noise).std(0) / expected
        assert abs(ratio.mean() - 1) < 0.01
        assert (expected < 0.9 * limit).any(), "the bound decides everywhere: nothing is tested"


def test_finetune_last_leaves_the_first_layers_bit_equal(problem):
    updated = update(problem, unlearning.finetune_last(optax.adamw(1e-2), layers=1, num_epochs=1))
    before = problem[1]["params"]
    problems.assert_trees_equal(updated["params"]["Dense_0"], before["Dense_0"])
    assert not np.array_equal(updated["params"]["Dense_1"]["kernel"], before["Dense_1"]["kernel"])
    named = unlearning.finetune_last(optax.adamw(1e-2), layers=("Dense_1",), num_epochs=1)
    problems.assert_trees_equal(update(problem, named), updated)


def test_retrain_last_forgets_what_the_last_layer_knew(problem):
    """Without training afterwards the layer must be independent of the one that was there."""
    frozen = unlearning.retrain_last(optax.sgd(0.0), layers=1, num_epochs=1)
    task, variables, request = problem
    other = jax.tree.map(lambda p: p + 1.0, variables)
    memory = frozen.init(jax.random.key(0), task, variables, None)[1]
    results = [
        frozen.update(jax.random.key(7), task, v, memory, request)[0]["params"]
        for v in (variables, other)
    ]
    problems.assert_trees_equal(results[0]["Dense_1"], results[1]["Dense_1"])
    problems.assert_trees_equal(results[0]["Dense_0"], variables["params"]["Dense_0"])


@pytest.mark.parametrize(
    ("layers", "message"), [(3, "at most the model's 2"), (("Conv",), "among")]
)
def test_layers_that_are_not_there_are_refused(problem, layers, message):
    with pytest.raises(ValueError, match=message):
        update(problem, unlearning.finetune_last(optax.sgd(0.1), layers=layers))
    with pytest.raises(ValueError, match="layers must be >= 1"):
        unlearning.finetune_last(optax.sgd(0.1), layers=0)


def test_gradient_ascent_plus_is_its_weighted_gradient(problem):
    """One full-batch step against the gradient of `beta L_retain - (1 - beta) L_forget`."""
    task, variables, request = problem
    method = unlearning.gradient_ascent_plus(
        optax.sgd(0.1), num_epochs=1, batch_size=1000, beta=0.8, max_loss=100.0
    )
    updated = update(problem, method)

    def loss(params):
        means = [
            task.loss(task.apply({"params": params}, part, None, False)[0], part).mean()
            for part in (request.retain, request.forget)
        ]
        return 0.8 * means[0] - 0.2 * means[1]

    grads = jax.grad(loss)(variables["params"])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
    problems.assert_trees_close(updated["params"], expected)


def test_salun_with_everything_salient_is_random_labelling_and_else_keeps_bits(problem):
    options = {"num_epochs": 2, "batch_size": 50}
    tx = optax.adamw(1e-3, weight_decay=0.1)
    everything = update(problem, unlearning.salun(tx, keep=1.0, **options))
    labelled = update(problem, unlearning.random_label(tx, **options))
    problems.assert_trees_close(everything, labelled, rtol=1e-5)
    part = update(problem, unlearning.salun(tx, keep=0.2, **options))
    before, after = (ravel_pytree(v["params"])[0] for v in (problem[1], part))
    moved = np.asarray(before != after)
    assert 0.15 < moved.mean() <= 0.2
    gradient = curvature.mean_gradient(problem[0], problem[1], problem[2].forget)
    salient = np.abs(np.asarray(ravel_pytree(gradient)[0]))
    assert salient[moved].min() >= np.quantile(salient, 0.8) * 0.999


def test_bad_teacher_makes_forget_predictions_those_of_a_novice(problem):
    """Far from the original's and no more confident than a fresh model's."""
    task, variables, request = problem
    method = unlearning.bad_teacher(optax.adam(3e-3), num_epochs=20, retain_fraction=1.0)
    assert "labels" not in method.needs
    updated = update(problem, method)
    entropy = lambda v, part: float(training.evaluate(task, v, part)["entropy"].mean())
    novice = problems.init(task, problems.digits(), seed=9)
    assert entropy(variables, request.forget) < 0.35 < entropy(updated, request.forget)
    assert entropy(updated, request.forget) > 0.6 * entropy(novice, request.forget)
    retained = training.evaluate(task, updated, request.retain)["accuracy"].mean()
    assert retained > 0.9


def test_scrub_without_max_epochs_and_alpha_is_finetuning_of_weight_gamma(problem):
    """Its min pass alone: the same loss, if not the same order, so compare full batches."""
    options = {"num_epochs": 3, "batch_size": 1000}
    scrub = unlearning.scrub(optax.sgd(0.1), max_epochs=0, alpha=0.0, gamma=1.0, **options)
    plain = unlearning.finetune(optax.sgd(0.1), **options)
    problems.assert_trees_close(
        update(problem, scrub)["params"], update(problem, plain)["params"], rtol=1e-4
    )


def test_scrub_moves_away_on_the_forget_set_and_stays_on_the_retain_set(problem):
    task, variables, request = problem
    updated = update(problem, unlearning.scrub(optax.adam(5e-3), num_epochs=5, max_epochs=3))
    divergence = unlearning.objectives.divergence("original")

    def away(part):
        new, _ = task.apply(updated, part, None, False)
        old, _ = task.apply(variables, part, None, False)
        return float(divergence(task, new, part, {"original": old}).mean())

    assert away(request.forget) > 1.0 > 5 * away(request.retain)


def test_l1_drives_weights_towards_zero_and_vanishes_without_gamma(problem):
    options = {"num_epochs": 5, "batch_size": 50}
    plain = update(problem, unlearning.finetune(optax.sgd(0.05), **options))
    free = update(problem, unlearning.l1_sparse(optax.sgd(0.05), gamma=0.0, **options))
    problems.assert_trees_close(free, plain, rtol=1e-6)
    sparse = update(problem, unlearning.l1_sparse(optax.sgd(0.05), gamma=2e-2, **options))
    small = [
        float(np.mean(np.abs(np.asarray(ravel_pytree(v["params"])[0])) < 1e-2))
        for v in (plain, sparse)
    ]
    assert small[1] > 2 * small[0]


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95])
def test_magnitude_pruning_keeps_the_largest_weights_of_all_layers_together(problem, sparsity):
    updated = update(problem, unlearning.prune(sparsity))
    before, after = problem[1]["params"], updated["params"]
    weights = np.concatenate([np.asarray(before[k]["kernel"]).ravel() for k in before])
    kept = np.concatenate([np.asarray(after[k]["kernel"]).ravel() for k in after])
    threshold = np.quantile(np.abs(weights), sparsity)
    np.testing.assert_array_equal(kept[np.abs(weights) > threshold * 1.001] != 0, True)
    assert float(unlearning.sparsity_of(after)) == pytest.approx(sparsity, abs=1e-3)
    problems.assert_trees_equal(after["Dense_1"]["bias"], before["Dense_1"]["bias"])


def test_pruned_weights_stay_zero_under_what_follows(problem):
    method = unlearning.prune_finetune(optax.adamw(1e-2), sparsity=0.9, num_epochs=2)
    task, variables, request = problem
    memory = method.init(jax.random.key(0), task, variables, None)[1]
    updated, _ = method.update(jax.random.key(0), task, variables, memory, request)
    assert float(unlearning.sparsity_of(updated["params"])) == pytest.approx(0.9, abs=1e-3)


def test_iterative_pruning_prunes_in_rounds_and_rewinds_what_is_left(problem):
    """Without training rounds are one shot; the survivors are the early weights, bit for bit."""
    task, variables, request = problem
    frozen = unlearning.iterative_prune(optax.sgd(0.0), sparsity=0.7, per_round=0.3, num_epochs=1)
    pruned, _ = frozen.init(jax.random.key(0), task, None, request.retain)
    params = pruned["params"]
    assert float(unlearning.sparsity_of(params)) == pytest.approx(0.7, abs=2e-3)
    start_rng = jax.random.split(jax.random.key(0), 3)[0]
    fresh = training.init_variables(task, request.retain, start_rng)["params"]
    one_shot = update(problem, unlearning.prune(0.7), request=request)  # of another model
    assert jax.tree.structure(one_shot["params"]) == jax.tree.structure(params)
    weights = np.concatenate([np.abs(fresh[k]["kernel"]).ravel() for k in fresh])
    for layer in fresh:
        kept = np.asarray(params[layer]["kernel"] != 0)
        np.testing.assert_array_equal(
            params[layer]["kernel"][kept], np.asarray(fresh[layer]["kernel"])[kept]
        )
        assert np.abs(fresh[layer]["kernel"])[kept].min() >= np.quantile(weights, 0.7) * 0.999


def test_iteratively_pruned_models_learn_and_stay_sparse(problem):
    task, variables, request = problem
    method = unlearning.iterative_prune_finetune(
        optax.adam(5e-3), sparsity=0.7, per_round=0.4, prune_epochs=5, num_epochs=2, batch_size=50
    )
    init = jax.jit(lambda rng: method.init(rng, task, None, request.retain))
    deployed, memory = init(jax.random.key(0))
    accuracy = training.evaluate(task, deployed, request.retain)["accuracy"].mean()
    assert accuracy > 0.9
    updated, _ = method.update(jax.random.key(1), task, deployed, memory, request)
    zero = np.asarray(deployed["params"]["Dense_0"]["kernel"] == 0)
    assert (np.asarray(updated["params"]["Dense_0"]["kernel"])[zero] == 0).all()
    assert not np.array_equal(
        updated["params"]["Dense_0"]["kernel"], deployed["params"]["Dense_0"]["kernel"]
    )


def test_synflow_saves_layers_that_magnitude_pruning_would_cut_off(problem):
    """At extreme sparsity it must leave a path through every layer (its point), data-free."""
    updated = update(problem, unlearning.prune(0.99, score="synflow", rounds=50))
    alive = [int((updated["params"][k]["kernel"] != 0).sum()) for k in ("Dense_0", "Dense_1")]
    assert min(alive) > 0
    total = sum(updated["params"][k]["kernel"].size for k in ("Dense_0", "Dense_1"))
    assert sum(alive) == pytest.approx(0.01 * total, abs=3)
    # Data-free: other retain inputs, same mask.
    task, variables, request = problem
    other = request._replace(retain={**request.retain, "inputs": -request.retain["inputs"]})
    again = update(problem, unlearning.prune(0.99, score="synflow", rounds=50), request=other)
    problems.assert_trees_equal(again, updated)


def test_just_in_time_smooths_the_model_around_the_forget_set(problem):
    task, variables, request = problem
    method = unlearning.just_in_time(optax.sgd(0.3), num_epochs=10, num_copies=5)
    assert method.needs == {"forget"}
    updated = update(problem, method)
    noise = 0.1 * jax.random.normal(jax.random.key(3), request.forget["inputs"].shape)

    def stretch(variables):
        moved = [{"inputs": request.forget["inputs"] + e} for e in (0.0, noise)]
        logits = [task.apply(variables, part, None, False)[0]["logits"] for part in moved]
        return float(jnp.linalg.norm(logits[0] - logits[1], axis=-1).mean())

    assert stretch(updated) < 0.7 * stretch(variables)


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


def test_a_chain_hands_on_the_model_and_keeps_the_teacher(problem):
    task, variables, request = problem
    seen = []

    def link(add):
        def update(rng, task, variables, memory, request):
            seen.append((variables["x"], request.original["x"]))
            return {"x": variables["x"] + add}, memory + (add,)

        return unlearning.chain.__globals__["Unlearner"](
            lambda rng, task, variables, data: ({"x": variables["x"] * 2}, ()), update, frozenset()
        )

    method = unlearning.chain(link(1), link(10))
    deployed, memory = method.init(jax.random.key(0), task, {"x": 3}, None)
    assert deployed == {"x": 12} and memory == ((), ())
    updated, memory = method.update(jax.random.key(0), task, deployed, memory, Request(None))
    assert updated == {"x": 23} and memory == ((1,), (10,))
    assert seen == [(12, 12), (13, 12)]
    with pytest.raises(ValueError, match="at least one unlearner"):
        unlearning.chain()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: unlearning.gradient_ascent_plus(tx, beta=1.5), r"beta must lie in \[0, 1\]"),
        (lambda tx: unlearning.salun(tx, keep=0.0), r"keep must lie in \(0, 1\], got 0.0"),
        (lambda tx: unlearning.scrub(tx, alpha=-1.0), "alpha must be >= 0, got -1.0"),
        (lambda tx: unlearning.scrub(tx, temperature=0.0), "temperature must be > 0"),
        (lambda tx: unlearning.bad_teacher(tx, retain_fraction=2.0), "retain_fraction must lie"),
        (lambda tx: unlearning.l1_sparse(tx, gamma=-1.0), "gamma must be >= 0"),
        (lambda tx: unlearning.prune(1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
        (lambda tx: unlearning.prune(0.5, score="random"), "score must be one of"),
        (lambda tx: unlearning.iterative_prune(tx, sparsity=1.0), r"sparsity must lie in \[0, 1\)"),
        (lambda tx: unlearning.iterative_prune(tx, per_round=0.0), "per_round must lie"),
        (lambda tx: unlearning.just_in_time(tx, sigma=0.0), "sigma must be > 0"),
        (lambda tx: unlearning.influence(method="exact"), "method must be one of"),
        (lambda tx: unlearning.influence(alpha=-1.0), "alpha must be >= 0"),
        (lambda tx: unlearning.fisher_forgetting(alpha=0.0), "alpha must be > 0"),
        (lambda tx: unlearning.loss_free_ssd(alpha=0.0), "alpha must be > 0"),
        (lambda tx: unlearning.adaptive_ssd(dampening=-1.0), "dampening must be >= 0"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax.sgd(0.1))
