"""What each method promises beyond forgetting: its own defining property, against an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from tests import problems
from unlearnjax import training, unlearning
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


def test_boundary_shrink_labels_are_those_of_the_attacked_examples(problem):
    task, variables, request = problem
    seen = {}
    inner = unlearning.boundary_shrink(optax.sgd(0.0), radius=0.3, num_epochs=1)
    spy = unlearning.relabel.descend

    def recording(*args, **kwargs):
        loop = spy(*args, **kwargs)

        def record(rng, task, variables, memory, request):
            seen["targets"] = request.forget["targets"]
            return variables, memory

        return loop._replace(update=record)

    unlearning.relabel.descend = recording
    try:
        inner = unlearning.boundary_shrink(optax.sgd(0.0), radius=0.3, num_epochs=1)
        inner.update(jax.random.key(0), task, variables, (), request)
    finally:
        unlearning.relabel.descend = spy
    # By hand, example by example.
    for i in range(0, len(request.forget["targets"]), 7):
        x, y = request.forget["inputs"][i : i + 1], request.forget["targets"][i : i + 1]

        def loss(x, y=y):
            outputs, _ = task.apply(variables, {"inputs": x}, None, False)
            return task.loss(outputs, {"targets": y})[0]

        attacked = x + 0.3 * jnp.sign(jax.grad(loss)(x))
        logits = np.array(task.apply(variables, {"inputs": attacked}, None, False)[0]["logits"][0])
        logits[int(y[0])] = -np.inf
        assert int(seen["targets"][i]) == logits.argmax()


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: unlearning.boundary_shrink(tx, radius=0.0), "radius must be > 0"),
        (lambda tx: unlearning.unsir(tx, num_noise=0), "num_noise must be >= 1"),
        (lambda tx: unlearning.l1_sparse(tx, gamma=-1.0), "gamma must be >= 0"),
        (lambda tx: unlearning.prune(1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
        (lambda tx: unlearning.prune(0.5, score="random"), "score must be one of"),
        (lambda tx: unlearning.iterative_prune(tx, sparsity=1.0), r"sparsity must lie in \[0, 1\)"),
        (lambda tx: unlearning.iterative_prune(tx, per_round=0.0), "per_round must lie"),
        (lambda tx: unlearning.loss_free_ssd(alpha=0.0), "alpha must be > 0"),
        (lambda tx: unlearning.adaptive_ssd(dampening=-1.0), "dampening must be >= 0"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax.sgd(0.1))
