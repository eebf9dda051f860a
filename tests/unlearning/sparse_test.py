"""L1-sparse fine-tuning and pruning, against dynamics worked out by hand."""

import inspect

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
    data = problems.digits(400)
    task = problems.mlp((24,))
    state, _ = jax.jit(
        lambda rng: training.train(
            task, optax.adam(3e-3), data, jnp.arange(400), rng, num_epochs=15, batch_size=50
        )
    )(jax.random.key(0))
    mask = data["targets"] == 3
    forget, retain = ({k: jnp.asarray(v[m]) for k, v in data.items()} for m in (mask, ~mask))
    return task, state.variables, Request(forget, retain)


@pytest.fixture(scope="module")
def flat():
    """Nine examples of a task whose loss is constant: parameters move by transformations alone."""
    data = {k: jnp.asarray(v) for k, v in problems.digits(9).items()}
    task = problems.mlp((6,))
    return task._replace(loss=lambda outputs, batch: 0 * outputs["logits"].sum(-1)), data


def update(problem, method, request=None):
    task, variables, given = problem
    request = request or given
    return jax.jit(lambda rng: method.update(rng, task, variables, (), request)[0])(
        jax.random.key(0)
    )


@pytest.mark.parametrize(("batch_size", "steps"), [(4, 3), (100, 1)])
def test_the_l1_coefficient_falls_from_epoch_to_epoch(flat, batch_size, steps):
    """Steps of `rate gamma (1 - e / E)` against the sign, biases too; 1 + 3/4 + 2/4 + 1/4 = 5/2."""
    task, data = flat
    rng = np.random.default_rng(0)
    signs = jax.tree.map(
        lambda p: jnp.asarray(rng.choice([-1.0, 0.0, 1.0], p.shape), jnp.float32),
        problems.init(task, data)["params"],
    )
    method = unlearning.l1_sparse(optax.sgd(0.1), gamma=0.2, num_epochs=4, batch_size=batch_size)
    updated, _ = method.update(jax.random.key(0), task, {"params": signs}, (), Request(None, data))
    expected = jax.tree.map(lambda s: s * (1 - 0.1 * 0.2 * steps * 2.5), signs)
    problems.assert_trees_close(updated["params"], expected, rtol=1e-6)


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


def largest(scores, keep):
    """Masks of the share `keep` of the entries of all kernels together."""
    flat = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
    threshold = flat[-round(keep * flat.size)]
    return {layer: score >= threshold for layer, score in scores.items()}


@pytest.mark.parametrize(("sparsity", "rounds"), [(0.6, 5), (0.36, 2)])
def test_iterative_pruning_prunes_in_rounds_and_rewinds_to_the_early_model(flat, sparsity, rounds):
    """Round after round in NumPy. Weights grow by how many of their layer are zero."""
    task, data = flat
    grow = lambda p: 0.01 + 0.2 * (p == 0).mean()
    tx = optax.stateless(
        lambda u, params: jax.tree.map(lambda p: jnp.full(p.shape, grow(p)), params)
    )
    method = unlearning.iterative_prune(
        tx, sparsity=sparsity, per_round=0.2, num_epochs=2, rewind_epochs=3, batch_size=4
    )
    deployed, memory = method.init(jax.random.key(0), task, None, data)
    assert memory == () and method.needs == {"train", "inputs", "labels"}

    start_rng = jax.random.split(jax.random.key(0), 3)[0]
    fresh = jax.tree.map(np.array, training.init_variables(task, data, start_rng)["params"])
    everything = {layer: np.ones_like(fresh[layer]["kernel"]) for layer in fresh}

    def train(params, mask, num_epochs):
        trained = {}
        for layer, own in params.items():
            kernel, bias = own["kernel"] * mask[layer], own["bias"].copy()
            for _ in range(3 * num_epochs):  # nine examples in batches of four
                kernel, bias = kernel + grow(kernel) * mask[layer], bias + grow(bias)
            trained[layer] = {"kernel": kernel, "bias": bias}
        return trained

    early, mask = train(fresh, everything, 3), everything
    for number in range(rounds):
        trained = train(early, mask, 2)
        keep = max(0.8 ** (number + 1), 1 - sparsity)
        mask = largest({layer: np.abs(p["kernel"]) for layer, p in trained.items()}, keep)
    problems.assert_trees_close(deployed["params"], train(early, mask, 2), rtol=1e-5)
    # The request changes nothing: what follows in a chain unlearns.
    assert method.update(None, task, deployed, (), None) == (deployed, ())


def test_synflow_scores_are_the_flow_through_every_weight(flat):
    """By hand: two layers of absolute weights on ones, where the activation is the identity."""
    task, data = flat
    variables = problems.init(task, data, seed=3)
    bias = jax.random.normal(jax.random.key(1), (6,))
    variables["params"]["Dense_0"]["bias"] = bias
    method = unlearning.prune(0.9, score="synflow", rounds=7)
    pruned, _ = method.update(None, task, variables, (), Request(None, data))
    size = {k: np.abs(np.asarray(v["kernel"], float)) for k, v in variables["params"].items()}
    mask = {k: np.ones_like(v) for k, v in size.items()}
    for number in range(7):
        w0, w1 = (size[k] * mask[k] for k in ("Dense_0", "Dense_1"))
        hidden = w0.sum(0) + np.abs(bias)
        scores = {"Dense_0": w0 * w1.sum(1), "Dense_1": w1 * hidden[:, None]}
        mask = largest(scores, 0.1 ** ((number + 1) / 7))
    for layer in mask:
        kernel = np.asarray(variables["params"][layer]["kernel"])
        np.testing.assert_array_equal(pruned["params"][layer]["kernel"], kernel * mask[layer])
    np.testing.assert_array_equal(pruned["params"]["Dense_0"]["bias"], bias)


def test_what_is_zero_stays_zero_and_the_rest_trains_as_without(problem):
    """Biases too, zero or not."""
    task, variables, request = problem
    params = jax.tree.map(lambda p: p.at[..., ::2].set(0.0), variables["params"])
    tx = optax.sgd(0.1)
    masked = unlearning.keep_zeros(tx)(None, task, {"params": params}, request)
    gradient = jax.tree.map(jnp.ones_like, params)
    moved, _ = masked.update(gradient, masked.init(params), params)
    for layer in params:
        np.testing.assert_array_equal(
            moved[layer]["kernel"], np.where(params[layer]["kernel"] == 0, 0, np.float32(-0.1))
        )
        assert (moved[layer]["bias"] == np.float32(-0.1)).all()


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


def test_the_default_penalty_is_small():
    assert inspect.signature(unlearning.l1_sparse).parameters["gamma"].default == 5e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx: unlearning.l1_sparse(tx, gamma=-1.0), "gamma must be >= 0"),
        (lambda tx: unlearning.prune(1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
        (lambda tx: unlearning.prune(-0.1), r"sparsity must lie in \[0, 1\), got -0.1"),
        (lambda tx: unlearning.prune(0.5, score="random"), "score must be one of"),
        (lambda tx: unlearning.iterative_prune(tx, sparsity=1.0), r"sparsity must lie in \[0, 1\)"),
        (lambda tx: unlearning.iterative_prune(tx, per_round=0.0), "per_round must lie"),
        (lambda tx: unlearning.iterative_prune(tx, rewind_epochs=0), "rewind_epochs must be >= 1"),
    ],
)
def test_bad_values_are_named_at_construction(call, message):
    with pytest.raises(ValueError, match=message):
        call(optax.sgd(0.1))


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("l1_sparse", {"gamma": 5e-4}),
        ("prune", {"sparsity": 0.95, "score": "magnitude", "rounds": 100}),
        ("prune_finetune", {"sparsity": 0.95, "score": "magnitude", "num_epochs": 10}),
        ("iterative_prune", {"per_round": 0.2}),
        ("iterative_prune_finetune", {"per_round": 0.2, "num_epochs": 10}),
    ],
)
def test_defaults_are_those_of_the_published_code(name, published):
    given = inspect.signature(getattr(unlearning, name)).parameters
    assert {key: given[key].default for key in published} == published
